'use strict';
// Ranks as a heat map over the mesh: a panel for each value of one dimension, in it the innermost
// dimension downwards and the others to the right.

// Where each rank stands: {panels, rows, columns, place(rank) → [panel, row, column], rankAt}
function meshLayout(overview, panelDimension) {
  const world = overview.world_size;
  let mesh = overview.mesh.filter((d) => d.size > 1);
  if (mesh.reduce((n, d) => n * d.size, 1) !== world) mesh = [];
  if (mesh.length < 2) {
    const size = mesh.length ? mesh[0].size : world;
    const columns = Math.max(1, Math.min(size, Math.ceil(Math.sqrt(size * 2.2))));
    return { panels: 1, rows: Math.ceil(size / columns), columns, panelName: () => '', caption: (mesh[0] ? mesh[0].name + ' ' : 'ranks ') + 'row by row',
      place: (rank) => [0, Math.floor(rank / columns), rank % columns], rankAt: (p, r, c) => (r * columns + c < world ? r * columns + c : -1) };
  }
  let stride = 1;
  const dims = mesh.map((d) => { const one = { ...d, stride }; stride *= d.size; return one; });
  const panel = dims.length > 2 ? dims.find((d) => d.name === panelDimension) || dims.at(-1) : null;
  const rest = dims.filter((d) => d !== panel);
  const row = rest[0], across = rest.slice(1);
  const columns = across.reduce((n, d) => n * d.size, 1);
  const of = (d, rank) => Math.floor(rank / d.stride) % d.size;
  return {
    panels: panel ? panel.size : 1, rows: row.size, columns,
    panelName: (p) => (panel ? `${panel.name} ${p}` : ''),
    caption: `down: ${row.name} · right: ${across.map((d) => d.name).join(' × ')}` + (panel ? ` · a panel: ${panel.name}` : ''),
    place(rank) {
      let column = 0, scale = 1;
      for (const d of across) { column += of(d, rank) * scale; scale *= d.size; }
      return [panel ? of(panel, rank) : 0, of(row, rank), column];
    },
    rankAt(p, r, c) {
      let rank = (panel ? p * panel.stride : 0) + r * row.stride;
      for (const d of across) { rank += (c % d.size) * d.stride; c = Math.floor(c / d.size); }
      return rank;
    },
  };
}
function coordinates(overview, rank) {
  let stride = 1;
  return overview.mesh.map((d) => { const at = Math.floor(rank / stride) % d.size; stride *= d.size; return `${d.name} ${at}`; }).join(', ');
}

function rankMetrics(ranks) {
  const times = [['Step time', ranks.step_us], ['Others wait for it', ranks.late_us],
    ...ranks.parts.map((name, i) => [name[0].toUpperCase() + name.slice(1), ranks.parts_us[i]])];
  const metrics = times.filter(([, values]) => values.some((v) => v > 0)).map(([name, values]) => ({ name, values, format: formatTime }));
  metrics.push({ name: 'State', values: ranks.life, format: String, isState: true });
  metrics.push({ name: 'Last heard', values: ranks.age_us, format: (v) => (v < 0 ? 'never' : formatTime(v) + ' ago') });
  metrics.push({ name: 'Newest step', values: ranks.step, format: String });
  metrics.push({ name: 'Records lost', values: ranks.lost, format: formatCount });
  return metrics;
}
function domain(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] || 0;
  const low = at(0.02), high = Math.max(at(0.999), sorted.at(-1) || 0), middle = at(0.5);
  // Small differences are shown as small ones.
  return { low: Math.min(low, middle * 0.95), high: Math.max(high, middle * 1.15, low + 1e-9), middle };
}

class HeatMap {
  constructor(open) {
    this.chart = new Chart((width) => this.plan(width).height, (c, w) => this.paint(c, w), 'Ranks over the mesh; arrow keys move, Enter opens a rank');
    this.canvas = this.chart.canvas;
    this.canvas.tabIndex = 0;
    this.canvas.classList.add('points');
    this.selected = 0;
    this.spoken = h('div', { class: 'muted small', 'aria-live': 'polite', style: { minHeight: '1.5em', marginTop: '6px' } });
    attachTip(this.canvas, (x, y) => { const rank = this.rankAt(x, y); return rank < 0 ? null : this.describe(rank); });
    this.canvas.addEventListener('click', (e) => { const rank = this.rankAt(e.offsetX, e.offsetY); if (rank >= 0) open(rank); });
    this.canvas.addEventListener('focus', () => this.select(this.selected));
    this.canvas.addEventListener('blur', () => this.chart.redraw());
    this.canvas.addEventListener('keydown', (event) => {
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (event.key === 'Enter') open(this.selected);
      if (!(event.key in moves)) return;
      event.preventDefault();
      this.move(...moves[event.key]);
    });
  }
  set(overview, layout, metric, marked) {
    Object.assign(this, { overview, layout, metric, marked });
    this.scale = metric.isState ? null : domain(metric.values);
    this.chart.redraw();
  }
  // The largest cells with which all panels fit.
  plan(width) {
    const l = this.layout;
    if (!l) return { height: 120 };
    const gap = l.panels > 1 ? 10 : 0, label = l.panels > 1 ? 16 : 0;
    for (let cell = 72; cell >= 1; cell -= cell > 12 ? 2 : 0.25) {
      const panelWidth = l.columns * cell, across = Math.min(l.panels, Math.floor((width + gap) / (panelWidth + gap)));
      if (across < 1) continue;
      const height = Math.ceil(l.panels / across) * (l.rows * cell + label + gap) + 4;
      if (height > 660 && cell > 2) continue;
      return { cell, across, panelWidth, gap, label, panelHeight: l.rows * cell, height };
    }
    const cell = width / l.columns;
    return { cell, across: 1, panelWidth: width, gap, label, panelHeight: Math.max(1, l.rows * Math.max(cell, 2)), height: l.panels * (l.rows * Math.max(cell, 2) + label + gap) + 4 };
  }
  corner(plan, panel) {
    return [(panel % plan.across) * (plan.panelWidth + plan.gap), Math.floor(panel / plan.across) * (plan.panelHeight + plan.label + plan.gap) + plan.label];
  }
  colour(rank) {
    const value = this.metric.values[rank];
    if (this.metric.isState) return css(LIFE_COLOURS[value] || '--accent');
    if (value === undefined || value < 0) return css('--raised');
    return rampColour((value - this.scale.low) / (this.scale.high - this.scale.low));
  }
  paint(context, width) {
    const l = this.layout;
    if (!l) return;
    const plan = this.plan(width), cellHeight = plan.panelHeight / l.rows, space = plan.cell > 6 ? 1 : 0;
    context.fillStyle = css('--muted');
    context.textBaseline = 'bottom';
    for (let p = 0; p < l.panels && plan.label; ++p) {
      const [x, y] = this.corner(plan, p);
      context.fillText(l.panelName(p), x, y - 2, plan.panelWidth);
    }
    const colours = new Map();  // state colours are looked up once
    const count = this.metric.values.length;
    for (let rank = 0; rank < count; ++rank) {
      const [panel, row, column] = l.place(rank);
      const [x, y] = this.corner(plan, panel);
      let colour = this.metric.isState ? colours.get(this.metric.values[rank]) : null;
      if (!colour) { colour = this.colour(rank); if (this.metric.isState) colours.set(this.metric.values[rank], colour); }
      context.fillStyle = colour;
      context.fillRect(x + column * plan.cell, y + row * cellHeight, plan.cell - space, cellHeight - space);
      if (plan.cell < 34) continue;
      context.fillStyle = context.strokeStyle = css('--text');
      context.fillText(rank, x + column * plan.cell + 4, y + row * cellHeight + 16);
    }
    context.lineWidth = 2;
    for (const rank of this.marked || []) this.outline(context, plan, cellHeight, rank, css('--text'));
    if (document.activeElement === this.canvas) this.outline(context, plan, cellHeight, this.selected, css('--accent'));
  }
  outline(context, plan, cellHeight, rank, colour) {
    const [panel, row, column] = this.layout.place(rank), [x, y] = this.corner(plan, panel);
    context.strokeStyle = colour;
    const grow = plan.cell < 8 ? 2 : 0;
    context.strokeRect(x + column * plan.cell - grow, y + row * cellHeight - grow, plan.cell - 1 + 2 * grow, cellHeight - 1 + 2 * grow);
  }
  rankAt(x, y) {
    const l = this.layout;
    if (!l) return -1;
    const plan = this.plan(this.canvas.clientWidth), cellHeight = plan.panelHeight / l.rows;
    for (let p = 0; p < l.panels; ++p) {
      const [left, top] = this.corner(plan, p);
      const column = Math.floor((x - left) / plan.cell), row = Math.floor((y - top) / cellHeight);
      if (column < 0 || column >= l.columns || row < 0 || row >= l.rows) continue;
      const rank = l.rankAt(p, row, column);
      return rank < this.metric.values.length ? rank : -1;
    }
    return -1;
  }
  describe(rank) {
    return `rank ${rank}` + (this.overview.mesh.length ? ` (${coordinates(this.overview, rank)})` : '') + `\n${this.metric.name.toLowerCase()}: ${this.metric.format(this.metric.values[rank])}` +
      (this.extra ? '\n' + this.extra(rank) : '');
  }
  move(rows, columns) {
    let [panel, row, column] = this.layout.place(this.selected);
    row += rows; column += columns;
    const l = this.layout;
    if (column >= l.columns) { column = 0; ++panel; }
    if (column < 0) { column = l.columns - 1; --panel; }
    if (row >= l.rows) { row = 0; ++panel; }
    if (row < 0) { row = l.rows - 1; --panel; }
    if (panel < 0 || panel >= l.panels) return;
    const rank = l.rankAt(panel, row, column);
    if (rank >= 0 && rank < this.metric.values.length) this.select(rank);
  }
  select(rank) {
    this.selected = rank;
    this.spoken.textContent = this.layout ? this.describe(rank).replaceAll('\n', ' · ') : '';
    this.chart.redraw();
  }
}

const ranksView = {
  paths: () => ['/api/overview', '/api/ranks'],
  metric: null,
  panel: null,
  mount(root) {
    this.map = new HeatMap((rank) => { location.hash = '#rank/' + rank; });
    this.metrics = h('select', { onchange: () => { this.metric = this.metrics.value; this.show(); } });
    this.panels = h('select', { onchange: () => { this.panel = this.panels.value; this.show(); } });
    this.go = h('input', { type: 'number', min: 0, placeholder: 'rank', style: { width: '90px' }, 'aria-label': 'Open a rank', onchange: () => { if (this.go.value !== '') location.hash = '#rank/' + Number(this.go.value); } });
    this.panelLabel = h('label', {}, 'Panels', this.panels);
    this.ramp = new Chart(10, (c, w, t) => { for (let x = 0; x < w; ++x) { c.fillStyle = rampColour(x / w); c.fillRect(x, 0, 1, t); } }, 'Colours from low to high');
    this.low = h('span'); this.high = h('span');
    this.scale = h('div', { class: 'scale' }, this.low, this.ramp.canvas, this.high);
    this.states = h('div', { class: 'legend', style: { margin: 0 } });
    this.caption = h('p', { class: 'muted small' });
    this.table = new Table([
      { name: 'Rank', value: (r) => r.rank, show: (r) => rankLink(r.rank) },
      { name: 'Host', value: (r) => r.host, show: (r) => r.host },
      { name: 'Value', numeric: true, value: (r) => r.value, show: (r) => this.current.format(r.value) },
    ], { limit: 16 });
    this.tableTitle = h('h2', {});
    this.hosts = new Table([
      { name: 'Host', value: (r) => r.host, show: (r) => r.host },
      { name: 'Ranks', numeric: true, value: (r) => r.count, show: (r) => r.count },
      { name: 'Median', numeric: true, value: (r) => r.value, show: (r) => this.current.format(r.value) },
    ], { limit: 8, sort: 2 });
    fill(root, h('div', { class: 'wide-row' },
      card('Ranks', h('div', { class: 'tools' }, h('label', {}, 'Show', this.metrics), this.panelLabel, this.scale, this.states, this.go),
        this.map.canvas, this.map.spoken, this.caption),
      h('div', { style: { display: 'grid', gap: '16px' } }, h('section', { class: 'card' }, this.tableTitle, this.table.element), card('Hosts', this.hosts.element))));
    this.data = null;
  },
  update(data) { this.data = data; this.show(); },
  show() {
    const [overview, ranks] = this.data;
    const metrics = rankMetrics(ranks);
    const current = metrics.find((m) => m.name === this.metric) || metrics.find((m) => m.name === 'Others wait for it') || metrics[0];
    this.current = current;
    const names = metrics.map((m) => m.name).join();
    if (this.names !== names) {
      this.names = names;
      fill(this.metrics, metrics.map((m) => h('option', { value: m.name }, m.name)));
    }
    this.metrics.value = current.name;
    const dims = overview.mesh.filter((d) => d.size > 1);
    this.panelLabel.hidden = dims.length < 3;
    const dimNames = dims.map((d) => d.name).join();
    if (this.dimNames !== dimNames) {
      this.dimNames = dimNames;
      fill(this.panels, dims.map((d) => h('option', { value: d.name }, d.name)));
      this.panels.value = dims.length ? dims.at(-1).name : '';
    }
    const layout = meshLayout(overview, this.panel);
    const marked = new Set(overview.verdicts.filter((v) => v.cleared_us === 0).flatMap((v) => [...v.culprit.ranks, ...v.culprit.links.flat()]));
    this.map.extra = (rank) => `${ranks.hosts[ranks.host[rank]] || 'host not known'}, ${ranks.life[rank]}, step ${ranks.step[rank]}`;
    this.map.set(overview, layout, current, [...marked].filter((r) => r < overview.world_size).slice(0, 64));
    this.caption.textContent = layout.caption + (marked.size ? ' · outlined: culprits of open verdicts' : '');
    this.scale.hidden = current.isState;
    this.scale.style.display = current.isState ? 'none' : '';
    this.states.style.display = current.isState ? '' : 'none';
    if (current.isState) {
      const counts = new Map();
      for (const life of ranks.life) counts.set(life, (counts.get(life) || 0) + 1);
      fill(this.states, [...counts].map(([life, n]) => h('span', {}, h('i', { style: { background: css(LIFE_COLOURS[life] || '--accent') } }), `${life} ${formatCount(n)}`)));
    } else {
      this.low.textContent = current.format(this.map.scale.low);
      this.high.textContent = current.format(this.map.scale.high);
    }
    this.rows(ranks, current);
  },
  rows(ranks, current) {
    const hostOf = (rank) => ranks.hosts[ranks.host[rank]] || '';
    const number = (v) => (current.isState ? (v === 'running' ? 0 : 1) : current.name === 'Newest step' ? -v : v);
    const rows = current.values.map((value, rank) => ({ rank, value, host: hostOf(rank) }));
    rows.sort((a, b) => number(b.value) - number(a.value));
    this.tableTitle.textContent = current.isState ? 'Not running first' : current.name === 'Newest step' ? 'Furthest behind' : 'Highest';
    this.table.set(rows.slice(0, 16));
    if (current.isState) return this.hosts.set([]);
    const byHost = new Map();
    for (const r of rows) { if (!byHost.has(r.host)) byHost.set(r.host, []); byHost.get(r.host).push(r.value); }
    this.hosts.set([...byHost].map(([host, values]) => ({ host, count: values.length, value: median(values) })));
  },
};

const rankView = {
  paths: ([rank]) => ['/api/rank?rank=' + Number(rank), '/api/overview'],
  mount(root) {
    this.head = h('div', { class: 'card' });
    this.data = null;
    this.bars = new Chart(200, (c, w, t) => this.data && this.paint(c, w, t), 'Steps of this rank and where their time went');
    attachTip(this.bars.canvas, (x) => this.stepTip(x));
    this.legend = h('div');
    this.past = new Chart(200, (c, w, t) => this.data && this.paintPast(c, w, t), 'Step time of this rank since the beginning');
    this.pending = new Table([
      { name: 'Group', show: (p) => groupLink({ id: p.group, name: p.group_name }, p.peer >= 0 ? 0 : p.sequence) },
      { name: 'Operation', show: (p) => p.text + (p.peer >= 0 ? ` (peer ${p.peer})` : '') },
      { name: 'Waits', numeric: true, show: (p) => formatTime(this.data[1].now_us - p.issued_us) },
      { name: 'Runs', show: (p) => (p.started_us ? 'yes' : 'not started') },
    ], { empty: 'It waits for nothing.' });
    this.links = new Table([
      { name: 'Peer', value: (l) => l.peer, show: (l) => rankLink(l.peer) },
      { name: 'Sent', numeric: true, value: (l) => l.sent_per_s, show: (l) => formatRate(l.sent_per_s) },
      { name: 'Received', numeric: true, value: (l) => l.received_per_s, show: (l) => formatRate(l.received_per_s) },
      { name: 'On the wire', numeric: true, value: (l) => l.send_wait, show: (l) => formatShare(l.send_wait) },
      { name: 'Peer has no room', numeric: true, value: (l) => l.peer_wait, show: (l) => formatShare(l.peer_wait) },
      { name: 'Nothing comes', numeric: true, value: (l) => l.receive_wait, show: (l) => formatShare(l.receive_wait) },
      { name: 'Retransmits/s', numeric: true, value: (l) => l.retransmits_per_s, show: (l) => digits(l.retransmits_per_s) },
      { name: 'Round trip', numeric: true, value: (l) => l.round_trip_us, show: (l) => (l.round_trip_us ? formatTime(l.round_trip_us) : '') },
    ], { empty: 'No counters of links.', limit: 64 });
    fill(root, this.head, h('div', { class: 'row' }, card('Its newest steps', this.bars.canvas, this.legend), card('Step time since the beginning', this.past.canvas)),
      h('div', { class: 'row' }, card('Waits for', this.pending.element), card('Links, last seconds', this.links.element)));
  },
  update(data) {
    this.data = data;
    const [rank, overview] = data;
    const p = rank.process;
    const facts = [coordinates(overview, rank.rank), rank.host && 'host ' + rank.host, rank.pid && 'process ' + rank.pid,
      rank.doing && 'in ' + rank.doing, plural(rank.operations, 'operation'), rank.lost + rank.shed > 0 && formatCount(rank.lost + rank.shed) + ' records lost'];
    const host = [p.processor && `processor ${formatShare(p.processor)}`, p.run_queue && `waits for a core ${formatShare(p.run_queue)}`,
      p.disk_wait && `waits for disk ${formatShare(p.disk_wait)}`, p.page_faults_per_s && `${digits(p.page_faults_per_s)} major faults/s`, p.tokens_per_s && `${formatShort(p.tokens_per_s)} tok/s`];
    const bad = !['running', 'unknown'].includes(rank.life);
    fill(this.head, h('div', { class: 'tools', style: { margin: 0 } }, h('h1', {}, 'Rank ' + rank.rank), h('span', { class: 'pill ' + (bad ? 'bad' : 'good') }, rank.life + (rank.life === 'exited' || rank.life === 'killed' ? ` (${rank.exit_code})` : '')),
      h('span', { class: 'muted' }, facts.filter(Boolean).join(' · ')), h('span', { class: 'grow' }),
      rank.rank > 0 && h('a', { href: '#rank/' + (rank.rank - 1) }, '← ' + (rank.rank - 1)), rank.rank + 1 < overview.world_size && h('a', { href: '#rank/' + (rank.rank + 1) }, rank.rank + 1 + ' →')),
    host.some(Boolean) && h('p', { class: 'muted small' }, host.filter(Boolean).join(' · ')),
    h('p', { class: 'small', style: { marginTop: '6px' } }, 'Groups: ', rank.groups.map((g, i) => [i ? ', ' : '', groupLink(g), ` (${g.size})`])));
    fill(this.legend, legend(rank.parts, presentParts(rank.parts, rank.window.parts_us)));
    this.bars.redraw();
    this.past.redraw();
    this.pending.set(rank.pending);
    this.links.set(rank.links);
  },
  paint(context, width, height) {
    const w = this.data[0].window;
    if (!w.step.length) return emptyText(context, width, height, 'No step has ended yet.');
    const x = { low: w.step[0] - 0.5, high: w.step.at(-1) + 0.5, format: (v) => 'step ' + v, whole: true };
    const { left, right, atY } = axes(context, width, height, x, { low: 0, high: Math.max(...w.total_us) * 1.05, format: formatTime });
    const wide = (right - left) / w.step.length;
    w.parts_us.forEach((row, n) => {
      let below = 0;
      row.forEach((value, part) => {
        if (!value) return;
        const y = atY(below + value);
        context.fillStyle = partColour(part);
        context.fillRect(left + n * wide, y, Math.max(1, wide - 1), atY(below) - y);
        below += value;
      });
    });
  },
  stepTip(x) {
    const w = this.data && this.data[0].window;
    if (!w || !w.step.length) return null;
    const n = Math.floor((x - MARGIN.left) / (this.bars.canvas.clientWidth - MARGIN.left - MARGIN.right) * w.step.length);
    if (n < 0 || n >= w.step.length) return null;
    return `step ${w.step[n]}: ${formatTime(w.total_us[n])}\n` + this.data[0].parts.map((p, i) => [p, w.parts_us[n][i]]).filter(([, v]) => v > 0).map(([p, v]) => `${p} ${formatTime(v)}`).join('\n') +
      (w.late_us[n] > 0 ? `\nothers waited for it: ${formatTime(w.late_us[n])}` : '');
  },
  paintPast(context, width, height) {
    const past = this.data[0].past;
    if (!past.step.length) return emptyText(context, width, height, 'No step has ended yet.');
    const x = { low: past.step[0], high: Math.max(past.step.at(-1), past.step[0] + 1), format: (v) => 'step ' + v, whole: true };
    const { atX, atY } = axes(context, width, height, x, { low: 0, high: Math.max(...past.mean_us) * 1.1, format: formatTime });
    line(context, past.step.map(atX), past.mean_us.map(atY), css('--accent'));
  },
};
