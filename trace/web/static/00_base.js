'use strict';
// Elements, numbers as text, colours, and where the data come from.

function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
}

// Three digits, and a unit that fits.
function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}
function formatTime(us) {
  if (us === null || us === undefined) return '–';
  const size = Math.abs(us);
  if (size < 1000) return digits(us) + ' µs';
  if (size < 1e6) return digits(us / 1e3) + ' ms';
  if (size < 120e6) return digits(us / 1e6) + ' s';
  if (size < 7200e6) return digits(us / 60e6) + ' min';
  return digits(us / 3600e6) + ' h';
}
function formatBytes(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < 4) { bytes /= 1024; ++unit; }
  return (unit === 0 ? String(Math.round(bytes)) : digits(bytes)) + ' ' + units[unit];
}
function formatRate(bytes) {
  const units = ['B/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s'];
  let unit = 0;
  while (bytes >= 1000 && unit < 4) { bytes /= 1000; ++unit; }
  return digits(bytes) + ' ' + units[unit];
}
function formatCount(value) { return Math.round(value).toLocaleString('en-US'); }
function formatShort(value) {
  const units = ['', ' k', ' M', ' G'];
  let unit = 0;
  while (value >= 1000 && unit < 3) { value /= 1000; ++unit; }
  return (unit === 0 ? formatCount(value) : digits(value)) + units[unit];
}
function formatShare(value) { return (value * 100).toFixed(value !== 0 && value < 0.1 ? 1 : 0) + ' %'; }
function plural(count, word) { return formatCount(count) + ' ' + word + (count === 1 ? '' : 's'); }
// A moment of the job: since its start; and by the calendar where the clock is one.
function formatMoment(us, first) {
  const since = '+' + formatTime(us - first);
  if (us < 946684800e6) return since;
  return new Date(us / 1000).toISOString().slice(11, 19) + ' UTC (' + since + ')';
}

const PART_COLOURS = {
  light: ['#3b76d6', '#d99a16', '#8a5cc7', '#2a9d8f', '#8d6748', '#6b8f3a', '#d4569a', '#a9b2bf',
    '#e4572e', '#f08c5a', '#c0392b', '#e0a98a', '#b5651d', '#cf7aa6', '#9c4f5f', '#d9b38c'],
  dark: ['#6ea0f5', '#e8b84a', '#b18ee8', '#4cc4b4', '#b8906e', '#9abf64', '#ec84bb', '#6d7889',
    '#ff7d57', '#ffac80', '#ee6a5d', '#f0c4aa', '#d98c4a', '#e6a3c7', '#c97f8e', '#e8cba8'],
};
const RAMP = {
  light: [[216, 227, 243], [160, 196, 240], [86, 140, 214], [247, 178, 103], [214, 69, 44]],
  dark: [[40, 52, 74], [44, 78, 128], [80, 136, 214], [240, 176, 84], [255, 98, 74]],
};
const LIFE_COLOURS = { running: '--good', stopped: '--warn', blocked: '--warn', exited: '--muted', killed: '--bad', silent: '--bad',
  'not heard': '--line', unknown: '--accent' };

function theme() { return document.documentElement.dataset.theme; }
function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function partColour(index) { return PART_COLOURS[theme()][index % 16]; }
// Of 0 … 1.
function rampColour(at) {
  const ramp = RAMP[theme()];
  const place = Math.min(1, Math.max(0, at)) * (ramp.length - 1);
  const low = Math.min(ramp.length - 2, Math.floor(place));
  const mix = ramp[low].map((c, i) => Math.round(c + (ramp[low + 1][i] - c) * (place - low)));
  return `rgb(${mix.join(',')})`;
}
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  try { localStorage.setItem('convoy-theme', name); } catch { /* a file may have no storage */ }
}
function firstTheme() {
  let kept = null;
  try { kept = localStorage.getItem('convoy-theme'); } catch { /* as above */ }
  const asked = new URLSearchParams(location.search).get('theme');
  return asked || kept || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
}

// A report holds its data; a live page asks for them.
class Source {
  constructor() {
    const stored = document.getElementById('data');
    this.stored = stored ? JSON.parse(stored.textContent) : null;
    const asked = new URLSearchParams(location.search).get('token');
    try {
      if (asked) sessionStorage.setItem('convoy-token', asked);
      this.token = sessionStorage.getItem('convoy-token');
    } catch { this.token = asked; }
    if (asked) {  // out of the address, so that nobody reads or copies it
      const url = new URL(location.href);
      url.searchParams.delete('token');
      history.replaceState(null, '', url);
    }
  }
  get live() { return this.stored === null; }
  async get(path) {
    if (this.stored) {
      if (path in this.stored) return this.stored[path];
      throw new Error('This report does not hold these details; it keeps those of culprits and of the slowest.');
    }
    const answer = await fetch(path, { headers: this.token ? { Authorization: 'Bearer ' + this.token } : {} });
    if (answer.status === 401) throw new Error('This page needs its token: open it with ?token=… once.');
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error || 'HTTP ' + answer.status);
    return body;
  }
}
