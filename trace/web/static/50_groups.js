'use strict';
// Groups, their newest collectives, and one collective across all ranks.

const groupsView = {
  paths: () => ['/api/groups'],
  mount(root) {
    this.operations = new Table([
      { name: 'Groups', value: (o) => o.kind, show: (o) => o.kind },
      { name: 'Operation', value: (o) => o.operation, show: (o) => o.operation },
      { name: 'Bytes', numeric: true, value: (o) => o.bytes, show: (o) => formatBytes(o.bytes) },
      { name: 'Count', numeric: true, value: (o) => o.count, show: (o) => formatCount(o.count) },
      { name: 'p50', numeric: true, value: (o) => o.p50_us, show: (o) => formatTime(o.p50_us) },
      { name: 'p99', numeric: true, value: (o) => o.p99_us, show: (o) => formatTime(o.p99_us) },
      { name: 'Skew p50', numeric: true, value: (o) => o.skew_p50_us, show: (o) => (o.instances ? formatTime(o.skew_p50_us) : '') },
      { name: 'Skew p99', numeric: true, value: (o) => o.skew_p99_us, show: (o) => (o.instances ? formatTime(o.skew_p99_us) : '') },
      { name: 'Once all are there', numeric: true, value: (o) => o.transfer_p50_us, show: (o) => (o.instances ? formatTime(o.transfer_p50_us) : '') },
      { name: 'Rate', numeric: true, value: (o) => o.bytes_per_s, show: (o) => (o.bytes_per_s ? formatRate(o.bytes_per_s) : '') },
    ], { sort: 3, limit: 60 });
    this.groups = new Table([
      { name: 'Group', value: (g) => g.name, show: (g) => groupLink(g) },
      { name: 'Kind', value: (g) => g.kind, show: (g) => g.kind },
      { name: 'Ranks', numeric: true, value: (g) => g.size, show: (g) => g.size },
      { name: 'Newest', numeric: true, value: (g) => g.latest, show: (g) => g.latest },
      { name: 'Not over', numeric: true, value: (g) => g.waiting, show: (g) => (g.waiting ? groupLink({ id: g.id, name: String(g.waiting) }, 0) : '') },
      { name: 'For', numeric: true, value: (g) => g.waiting_us, show: (g) => (g.waiting_us ? formatTime(g.waiting_us) : '') },
      { name: 'Mean skew', numeric: true, value: (g) => g.skew_us, show: (g) => formatTime(g.skew_us) },
      { name: 'Once all are there', numeric: true, value: (g) => g.transfer_us, show: (g) => formatTime(g.transfer_us) },
    ], { limit: 60 });
    this.filter = h('input', { type: 'search', placeholder: 'name or kind', 'aria-label': 'Filter groups', oninput: () => this.show() });
    this.note = h('span', { class: 'muted small' });
    fill(root, card('Collectives by kind of group and size', h('p', { class: 'muted small' }, 'p50 and p99: from issue to completion, as each rank sees it. Skew: between the first rank that comes and the last.'), this.operations.element),
      card('Groups', h('div', { class: 'tools' }, this.filter, this.note), this.groups.element));
  },
  update([groups]) { this.data = groups; this.operations.set(groups.operations); this.show(); },
  show() {
    const wanted = this.filter.value.toLowerCase();
    const rows = this.data.groups.filter((g) => (g.name + ' ' + g.kind).toLowerCase().includes(wanted));
    this.groups.set(rows);
    this.note.textContent = `${formatCount(this.data.all)} groups` + (rows.length > 60 || this.data.all > this.data.groups.length ? '; those with most waiting are shown' : '');
  },
};

const groupView = {
  paths: ([id]) => ['/api/group?group=' + Number(id)],
  mount(root) {
    this.data = null;
    this.head = h('div');
    this.chart = new Chart(170, (c, w, t) => this.data && this.paint(c, w, t), 'Newest collectives of the group over time');
    this.chart.canvas.classList.add('points');
    attachTip(this.chart.canvas, (x) => { const i = this.at(x); return i && this.describe(i); });
    this.chart.canvas.addEventListener('click', (e) => { const i = this.at(e.offsetX); if (i) location.hash = `#instance/${this.data.id}/${i.sequence}`; });
    this.table = new Table([
      { name: '#', numeric: true, value: (i) => i.sequence, show: (i) => h('a', { href: `#instance/${this.data.id}/${i.sequence}` }, i.sequence) },
      { name: 'Operation', value: (i) => i.text, show: (i) => [i.text, ' ', i.differ ? h('span', { class: 'pill bad' }, 'ranks disagree') : ''] },
      { name: 'Came', numeric: true, value: (i) => i.issued, show: (i) => `${i.issued} of ${this.data.size}` },
      { name: 'Skew', numeric: true, value: (i) => i.last_arrival_us - i.first_arrival_us, show: (i) => formatTime(i.last_arrival_us - i.first_arrival_us) },
      { name: 'Last', value: (i) => i.last_rank, show: (i) => rankLink(i.last_rank) },
      { name: 'Once all were there', numeric: true, value: (i) => this.transfer(i), show: (i) => (i.completed === this.data.size ? formatTime(this.transfer(i)) : h('span', { class: 'pill bad' }, `${i.completed} done`)) },
    ], { sort: 0, limit: 64 });
    fill(root, this.head, card('Its newest collectives over time', this.chart.canvas, h('p', { class: 'legend' },
      h('span', {}, h('i', { style: { background: css('--warn') } }), 'waiting for the last rank'), h('span', {}, h('i', { style: { background: css('--accent') } }), 'all are there'), h('span', {}, h('i', { style: { background: css('--bad') } }), 'not over'))),
    card(null, this.table.element));
  },
  transfer(i) { return Math.max(0, i.end_us - i.last_arrival_us); },
  over(i) { return i.completed === this.data.size; },
  update([group]) {
    this.data = group;
    fill(this.head, h('h1', {}, group.name), h('p', { class: 'muted' }, `${plural(group.size, 'rank')} along ${group.kind}: `, group.ranks.slice(0, 12).map((r, i) => [i ? ', ' : '', h('a', { href: '#rank/' + r }, r)]), group.size > 12 ? ', …' : ''));
    this.chart.redraw();
    this.table.set(group.instances);
  },
  range() {
    const all = this.data.instances;
    const low = Math.min(...all.map((i) => i.first_arrival_us));
    const high = Math.max(...all.map((i) => (this.over(i) ? i.end_us : this.data.now_us)));
    return { low, high: Math.max(high, low + 1) };
  },
  paint(context, width, height) {
    const all = this.data.instances;
    if (!all.length) return emptyText(context, width, height, 'No collective is kept.');
    const { low, high } = this.range();
    const most = Math.max(...all.map((i) => (this.over(i) ? i.end_us : this.data.now_us) - i.first_arrival_us), 1);
    const { atX, atY, bottom } = axes(context, width, height, { low, high, format: (v) => '+' + formatTime(v - low) }, { low: 0, high: most * 1.05, format: formatTime });
    const wide = Math.max(2, Math.min(14, (width - 80) / all.length - 1));
    for (const i of all) {
      const x = atX(i.first_arrival_us) - wide / 2;
      const skew = i.last_arrival_us - i.first_arrival_us;
      if (!this.over(i)) {
        context.fillStyle = css('--bad');
        const y = atY(this.data.now_us - i.first_arrival_us);
        context.fillRect(x, y, wide, bottom - y);
        continue;
      }
      context.fillStyle = css('--warn');
      context.fillRect(x, atY(skew), wide, bottom - atY(skew));
      context.fillStyle = css('--accent');
      const y = atY(skew + this.transfer(i));
      context.fillRect(x, y, wide, atY(skew) - y);
    }
  },
  at(x) {
    if (!this.data || !this.data.instances.length) return null;
    const { low, high } = this.range();
    const time = low + (x - MARGIN.left) / (this.chart.canvas.clientWidth - MARGIN.left - MARGIN.right) * (high - low);
    return this.data.instances.reduce((a, b) => (Math.abs(a.first_arrival_us - time) <= Math.abs(b.first_arrival_us - time) ? a : b));
  },
  describe(i) {
    return `#${i.sequence} ${i.text}\nskew ${formatTime(i.last_arrival_us - i.first_arrival_us)}, last: rank ${i.last_rank}\n` + (this.over(i) ? `once all were there ${formatTime(this.transfer(i))}` : `${i.issued} of ${this.data.size} have come, ${i.completed} are done`);
  },
};

const instanceView = {
  paths: ([group, sequence]) => [`/api/instance?group=${Number(group)}&sequence=${Number(sequence)}`],
  order: 'arrival',
  mount(root) {
    this.data = null;
    this.head = h('div');
    this.chart = new Chart(() => this.height(), (c, w, t) => this.data && this.paint(c, w, t), 'Each rank from its call to its completion');
    attachTip(this.chart.canvas, (x, y) => { const n = this.at(y); return n === null ? null : this.describe(n); });
    this.chart.canvas.classList.add('points');
    this.chart.canvas.addEventListener('click', (e) => { const n = this.at(e.offsetY); if (n !== null) location.hash = '#rank/' + this.data.members.rank[n]; });
    this.orders = h('select', { onchange: () => { this.order = this.orders.value; this.sort(); } }, h('option', { value: 'arrival' }, 'last to come first'), h('option', { value: 'rank' }, 'by rank'));
    this.table = new Table([
      { name: 'Rank', numeric: true, value: (n) => this.data.members.rank[n], show: (n) => rankLink(this.data.members.rank[n]) },
      { name: 'Called', numeric: true, value: (n) => this.data.members.issued_us[n] ?? Infinity, show: (n) => this.time(this.data.members.issued_us[n], 'not called') },
      { name: 'Started', numeric: true, value: (n) => this.data.members.started_us[n] ?? Infinity, show: (n) => this.time(this.data.members.started_us[n], 'not started') },
      { name: 'Completed', numeric: true, value: (n) => this.data.members.completed_us[n] ?? Infinity, show: (n) => this.time(this.data.members.completed_us[n], 'not completed') },
      { name: 'Called as', show: (n) => this.data.texts[this.data.members.text[n]] || '' },
    ], { sort: 1, limit: 64 });
    fill(root, this.head, card(null, h('div', { class: 'tools' }, h('label', {}, 'Order', this.orders), h('div', { class: 'legend', style: { margin: 0 } },
      h('span', {}, h('i', { style: { background: css('--warn') } }), 'called, not started'), h('span', {}, h('i', { style: { background: css('--accent') } }), 'runs'), h('span', {}, h('i', { style: { background: css('--bad') } }), 'missing or not over'))),
    this.chart.canvas), card('Members', this.table.element));
  },
  time(value, otherwise) { return value === null ? h('span', { class: 'pill bad' }, otherwise) : '+' + formatTime(value); },
  height() {
    const count = this.data ? this.data.members.rank.length : 0;
    return Math.min(620, Math.max(60, count * Math.min(24, Math.max(1, 560 / Math.max(1, count))))) + MARGIN.bottom + MARGIN.top;
  },
  update([instance]) {
    this.data = instance;
    const missing = instance.members.issued_us.filter((v) => v === null).length;
    const done = instance.members.completed_us.filter((v) => v !== null).length, size = instance.members.rank.length;
    fill(this.head, h('h1', {}, groupLink({ id: instance.group, name: instance.name }), ` #${instance.sequence}: ${instance.text}`),
      h('p', { class: 'muted' }, `${size - missing} of ${size} ranks have called it, ${done} have completed it`, instance.differ ? '. ' : '.', instance.differ && h('span', { class: 'pill bad' }, 'ranks disagree: ' + instance.texts.join(' / '))));
    this.sort();
    this.table.set(instance.members.rank.map((_, i) => i));
  },
  sort() {
    const m = this.data.members;
    this.rows = m.rank.map((_, i) => i);
    if (this.order === 'arrival') {
      const arrival = (n) => m.started_us[n] ?? m.issued_us[n] ?? Infinity;  // as the skew counts it
      this.rows.sort((a, b) => (arrival(a) === arrival(b) ? a - b : arrival(b) > arrival(a) ? 1 : -1));
    }
    this.chart.redraw();
  },
  high() {
    const m = this.data.members;
    const known = Math.max(1, ...[m.issued_us, m.started_us, m.completed_us].map((c) => c.reduce((a, b) => Math.max(a, b ?? 0), 0)));
    return m.completed_us.includes(null) ? Math.max(known, this.data.now_us) : known;
  },
  paint(context, width, height) {
    const m = this.data.members, high = this.high();
    const { atX, left, right, top, bottom } = axes(context, width, height, { low: 0, high: high * 1.02, format: (v) => '+' + formatTime(v) }, { low: 0, high: 0, format: () => '' });
    const tall = (bottom - top) / this.rows.length, space = tall > 4 ? 1 : 0;
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    this.rows.forEach((n, row) => {
      const y = top + row * tall;
      const box = (from, to, colour) => { context.fillStyle = colour; context.fillRect(atX(from), y, Math.max(1, atX(to) - atX(from)), Math.max(0.7, tall - space)); };
      if (m.issued_us[n] === null) { context.globalAlpha = 0.35; box(0, high, css('--bad')); context.globalAlpha = 1; }
      else {
        const start = m.started_us[n] ?? m.completed_us[n] ?? high;
        box(m.issued_us[n], start, m.started_us[n] === null && m.completed_us[n] === null ? css('--bad') : css('--warn'));
        if (start < high || m.completed_us[n] !== null) box(start, m.completed_us[n] ?? high, m.completed_us[n] === null ? css('--bad') : css('--accent'));
      }
      if (tall >= 11) { context.fillStyle = css('--muted'); context.fillText('rank ' + m.rank[n], left - 6, y + tall / 2); }
    });
    if (tall < 11) { context.fillStyle = css('--muted'); context.fillText(plural(this.rows.length, 'rank'), left - 4, top + 10, left - 6); }
    void right;
  },
  at(y) {
    if (!this.data) return null;
    const tall = (this.height() - MARGIN.top - MARGIN.bottom) / this.rows.length;
    const row = Math.floor((y - MARGIN.top) / tall);
    return row >= 0 && row < this.rows.length ? this.rows[row] : null;
  },
  describe(n) {
    const m = this.data.members, show = (v) => (v === null ? 'not yet' : '+' + formatTime(v));
    return `rank ${m.rank[n]}\ncalled ${show(m.issued_us[n])}\nstarted ${show(m.started_us[n])}\ncompleted ${show(m.completed_us[n])}\n${this.data.texts[m.text[n]] || ''}`;
  },
};
