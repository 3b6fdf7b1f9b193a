'use strict';
// Who sends to whom, how fast, and where it is slower than its like.

const LINK_METRICS = [
  { key: 'norm', name: 'Time for a byte, against the median of such links', format: (v) => digits(v) + ' ×' },
  { key: 'busy_bytes_per_s', name: 'Rate while sending', format: formatRate },
  { key: 'bytes_per_s', name: 'Bytes a second', format: formatRate },
  { key: 'send_wait', name: 'Share of time on the wire', format: formatShare },
  { key: 'peer_wait', name: 'Share of time the receiver has no room', format: formatShare },
  { key: 'receive_wait', name: 'Share of time nothing comes', format: formatShare },
  { key: 'retransmits_per_s', name: 'Retransmits a second', format: digits },
  { key: 'round_trip_us', name: 'Round trip', format: formatTime },
];

const linksView = {
  paths: () => ['/api/links', '/api/overview'],
  key: 'norm',
  mount(root) {
    this.data = null;
    this.chart = new Chart((w) => Math.min(w, 640) + 26, (c, w, t) => this.data && this.paint(c, w, t), 'Senders down, receivers to the right');
    attachTip(this.chart.canvas, (x, y) => this.describeAt(x, y));
    this.metrics = h('select', { onchange: () => { this.key = this.metrics.value; this.show(); } });
    this.ramp = new Chart(10, (c, w, t) => { for (let x = 0; x < w; ++x) { c.fillStyle = rampColour(x / w); c.fillRect(x, 0, 1, t); } }, 'Colours from low to high');
    this.low = h('span'); this.high = h('span');
    this.note = h('p', { class: 'muted small', style: { marginTop: '8px' } });
    const column = (key, name) => ({ name, numeric: true, value: (i) => this.links[key][i], show: (i) => this.links[key][i] > 0 ? LINK_METRICS.find((m) => m.key === key).format(this.links[key][i]) : '–' });
    this.table = new Table([
      { name: 'From', value: (i) => this.links.from[i], show: (i) => this.end(this.links.from[i]) },
      { name: 'To', value: (i) => this.links.to[i], show: (i) => this.end(this.links.to[i]) },
      column('norm', 'Against its like'), column('busy_bytes_per_s', 'While sending'), column('bytes_per_s', 'Rate'),
    ], { sort: 2, limit: 20, empty: 'No counters of links have come.' });
    fill(root, h('div', { class: 'row' }, card('Links', h('div', { class: 'tools' }, h('label', {}, 'Show', this.metrics), h('div', { class: 'scale' }, this.low, this.ramp.canvas, this.high)), this.chart.canvas, this.note),
      card('Slowest for a byte', this.table.element)));
  },
  end(index) { return this.data[0].by === 'host' ? this.data[0].names[index] : rankLink(index); },
  name(index) { return this.data[0].by === 'host' ? this.data[0].names[index] : 'rank ' + index; },
  update(data) { this.data = data; this.links = data[0].links; this.show(); },
  show() {
    const present = LINK_METRICS.filter((m) => this.links[m.key].some((v) => v > 0));
    const current = present.find((m) => m.key === this.key) || present[0] || LINK_METRICS[0];
    this.current = current;
    const names = present.map((m) => m.key).join();
    if (this.names !== names) { this.names = names; fill(this.metrics, present.map((m) => h('option', { value: m.key }, m.name))); }
    this.metrics.value = current.key;
    this.scale = domain(this.links[current.key].filter((v) => v > 0));
    this.low.textContent = current.format(this.scale.low);
    this.high.textContent = current.format(this.scale.high);
    const marked = this.data[1].verdicts.filter((v) => v.cleared_us === 0).flatMap((v) => v.culprit.links);
    this.note.textContent = `Senders down, receivers to the right, by ${this.data[0].by}; ${formatCount(this.data[0].all)} pairs that talk, over the last seconds.` + (marked.length && this.data[0].by === 'rank' ? ' Outlined: culprits.' : '');
    this.marked = this.data[0].by === 'rank' ? marked : [];
    this.index = new Map(this.links.from.map((from, i) => [from * this.data[0].ends + this.links.to[i], i]));
    this.chart.redraw();
    this.table.set(this.links.from.map((_, i) => i));
  },
  geometry(width) {
    const left = 44, top = 20;
    return { left, top, cell: (Math.min(width, 640) - left) / Math.max(1, this.data[0].ends) };
  },
  paint(context, width) {
    const ends = this.data[0].ends;
    if (!this.links.from.length) return emptyText(context, width, 200, 'No counters of links have come.');
    const { left, top, cell } = this.geometry(width);
    const draw = Math.max(cell - (cell > 5 ? 1 : 0), 2);
    context.fillStyle = css('--bg');
    context.fillRect(left, top, cell * ends, cell * ends);
    const values = this.links[this.current.key];
    // The high ones last, so that they are not covered where cells are smaller than a pixel.
    const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
    for (const i of order) {
      context.fillStyle = rampColour((values[i] - this.scale.low) / (this.scale.high - this.scale.low));
      context.fillRect(left + this.links.to[i] * cell, top + this.links.from[i] * cell, draw, draw);
    }
    context.strokeStyle = css('--text');
    context.lineWidth = 2;
    for (const [from, to] of this.marked) context.strokeRect(left + to * cell, top + from * cell, draw, draw);
    context.fillStyle = css('--muted');
    const every = Math.max(1, Math.ceil(ends * 30 / (cell * ends)));
    const step = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].find((s) => s >= every) || every;
    for (let i = 0; i < ends; i += step) {
      context.textAlign = 'right'; context.textBaseline = 'middle';
      context.fillText(i, left - 6, top + (i + 0.5) * cell);
      context.textAlign = 'center'; context.textBaseline = 'bottom';
      context.fillText(i, left + (i + 0.5) * cell, top - 4);
    }
  },
  describeAt(x, y) {
    if (!this.data || !this.index) return null;
    const { left, top, cell } = this.geometry(this.chart.canvas.clientWidth);
    const to = Math.floor((x - left) / cell), from = Math.floor((y - top) / cell), ends = this.data[0].ends;
    if (to < 0 || from < 0 || to >= ends || from >= ends) return null;
    const i = this.index.get(from * ends + to);
    const head = `${this.name(from)} → ${this.name(to)}`;
    if (i === undefined) return head + '\nnothing';
    return head + '\n' + LINK_METRICS.filter((m) => this.links[m.key][i] > 0).map((m) => `${m.name.toLowerCase()}: ${m.format(this.links[m.key][i])}`).join('\n');
  },
};
