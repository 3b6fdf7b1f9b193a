'use strict';
// Canvases: sharp on any screen, drawn again when their size or the theme changes.

const canvases = new Set();

// `draw(context, width, height)` in CSS pixels. `height` is fixed, or a function of the width.
class Chart {
  constructor(height, draw, label) {
    this.height = height;
    this.draw = draw;
    this.canvas = h('canvas', { role: 'img', 'aria-label': label });
    this.setHeight(this.canvas.parentElement ? this.canvas.clientWidth : 600);
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    canvases.add(new WeakRef(this));
  }
  setHeight(width) {
    const height = typeof this.height === 'function' ? this.height(width) : this.height;
    this.canvas.style.height = height + 'px';
    return height;
  }
  redraw() {
    const width = this.canvas.clientWidth;
    if (width === 0) return;
    const height = this.setHeight(width);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.font = '12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
    this.draw(context, width, height);
  }
}
function redrawAll() {
  for (const reference of canvases) {
    const chart = reference.deref();
    if (chart) chart.redraw();
    else canvases.delete(reference);
  }
}

const tip = h('div', { id: 'tip', role: 'status' });
function showTip(event, text) {
  tip.textContent = text;
  tip.style.display = 'block';
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.min(event.clientX + 14, innerWidth - box.width - 8) + 'px';
  tip.style.top = Math.min(event.clientY + 14, innerHeight - box.height - 8) + 'px';
}
function hideTip() { tip.style.display = 'none'; }
// `textAt(x, y)` in CSS pixels; null: nothing there.
function attachTip(canvas, textAt) {
  canvas.addEventListener('mousemove', (event) => {
    const text = textAt(event.offsetX, event.offsetY);
    if (text) showTip(event, text); else hideTip();
  });
  canvas.addEventListener('mouseleave', hideTip);
}

function niceTicks(low, high, count) {
  const span = high - low || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const ticks = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) ticks.push(t);
  return ticks;
}

const MARGIN = { left: 62, right: 10, top: 8, bottom: 24 };

// Axes; returns the functions from values to pixels.
function axes(context, width, height, x, y) {
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const atX = (v) => MARGIN.left + (v - x.low) / (x.high - x.low || 1) * (right - MARGIN.left);
  const atY = (v) => bottom - (v - y.low) / (y.high - y.low || 1) * (bottom - MARGIN.top);
  context.strokeStyle = css('--line');
  context.fillStyle = css('--muted');
  context.lineWidth = 1;
  context.textAlign = 'right';
  context.textBaseline = 'middle';
  for (const t of niceTicks(y.low, y.high, Math.max(2, height / 50))) {
    const at = Math.round(atY(t)) + 0.5;
    context.beginPath(); context.moveTo(MARGIN.left, at); context.lineTo(right, at); context.stroke();
    context.fillText(y.format(t), MARGIN.left - 8, at);
  }
  context.textAlign = 'center';
  context.textBaseline = 'top';
  for (const t of niceTicks(x.low, x.high, Math.max(2, width / 130))) {
    if (x.whole && t !== Math.round(t)) continue;
    const text = x.format(t), half = context.measureText(text).width / 2;
    context.fillText(text, Math.min(Math.max(atX(t), MARGIN.left), right - half), bottom + 7);
  }
  return { atX, atY, left: MARGIN.left, right, top: MARGIN.top, bottom };
}

function line(context, xs, ys, colour) {
  context.strokeStyle = colour;
  context.lineWidth = 1.8;
  context.lineJoin = 'round';
  context.beginPath();
  xs.forEach((x, i) => (i ? context.lineTo(x, ys[i]) : context.moveTo(x, ys[i])));
  context.stroke();
}

function emptyText(context, width, height, text) {
  context.fillStyle = css('--muted');
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.fillText(text, width / 2, height / 2);
}

// Which of the parts a job has at all.
function presentParts(parts, rows) {
  return parts.map((_, i) => i).filter((i) => rows.some((row) => row[i] > 0));
}
function legend(parts, indices) {
  return h('div', { class: 'legend' }, indices.map((i) =>
    h('span', {}, h('i', { style: { background: partColour(i) } }), parts[i])));
}
// One horizontal bar; `total` is its full width.
function partBar(row, parts, total) {
  return h('div', { class: 'bars', role: 'img', 'aria-label': parts.map((p, i) => (row[i] ? `${p} ${formatTime(row[i])}` : '')).filter(Boolean).join(', ') },
    row.map((value, i) => value > 0 && h('i', { style: { width: (100 * value / (total || 1)) + '%', background: partColour(i) }, title: `${parts[i]}: ${formatTime(value)}` })));
}

// Rows: columns are {name, numeric, value(row), show(row)}; sorted by a click on a heading.
class Table {
  constructor(columns, { sort = null, limit = 1000, empty = 'Nothing yet.' } = {}) {
    Object.assign(this, { columns, limit, empty, sort, descending: true, rows: [] });
    this.body = h('tbody');
    this.heads = columns.map((c, i) => h('th', { class: c.numeric ? 'n' : '', scope: 'col' },
      c.value ? h('button', { onclick: () => this.sortBy(i) }, c.name) : c.name));
    this.element = h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, h('tr', {}, this.heads)), this.body));
  }
  sortBy(index) {
    this.descending = this.sort === index ? !this.descending : true;
    this.sort = index;
    this.set(this.rows);
  }
  set(rows) {
    this.rows = rows;
    let shown = rows;
    if (this.sort !== null) {
      const value = this.columns[this.sort].value, sign = this.descending ? -1 : 1;
      shown = [...rows].sort((a, b) => sign * (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0));
    }
    this.heads.forEach((head, i) => head.setAttribute('aria-sort', i !== this.sort ? 'none' : this.descending ? 'descending' : 'ascending'));
    fill(this.body, shown.length ? shown.slice(0, this.limit).map((row) => h('tr', {}, this.columns.map((c) =>
      h('td', { class: c.numeric ? 'n' : '' }, c.show(row)))))
      : h('tr', {}, h('td', { class: 'empty', colspan: this.columns.length }, this.empty)));
  }
}
function card(title, ...children) { return h('section', { class: 'card' }, title && h('h2', {}, title), ...children); }
