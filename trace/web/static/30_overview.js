'use strict';
// The job as a whole: how long steps take, where their time goes, what is wrong.

function figure(name) {
  const value = h('div', { class: 'value' }, '–'), note = h('div', { class: 'note' });
  return { element: h('div', { class: 'figure' }, h('div', { class: 'name' }, name), value, note),
    set(text, more) { value.textContent = text; note.textContent = more || ''; } };
}

// Steps that have come from (nearly) all ranks; the newest ones may still be coming.
function wholeSteps(steps) {
  const most = Math.max(0, ...steps.ranks);
  return steps.step.map((_, i) => i).filter((i) => steps.ranks[i] >= most * 0.98);
}
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
}

function drawSteps(context, width, height, overview) {
  const steps = overview.steps, shown = wholeSteps(steps);
  if (shown.length === 0) return emptyText(context, width, height, 'No step has ended yet.');
  // One stray first step must not flatten the rest.
  const longest = shown.map((i) => steps.longest_us[i]);
  const usual = [...longest].sort((a, b) => a - b)[Math.floor(longest.length * 0.98)];
  const high = Math.min(Math.max(...longest), usual * 1.6) * 1.08;
  const x = { low: steps.step[shown[0]], high: Math.max(steps.step[shown.at(-1)], steps.step[shown[0]] + 1), format: (v) => 'step ' + v, whole: true };
  const { atX, atY, top, bottom } = axes(context, width, height, x, { low: 0, high, format: formatTime });
  const xs = shown.map((i) => atX(steps.step[i]));
  const at = (us) => Math.max(top, atY(us));
  context.globalAlpha = 0.22;
  context.fillStyle = css('--accent');
  context.beginPath();
  shown.forEach((i, n) => context.lineTo(xs[n], at(steps.longest_us[i])));
  [...shown].reverse().forEach((i, n) => context.lineTo(xs[shown.length - 1 - n], at(steps.shortest_us[i])));
  context.fill();
  context.globalAlpha = 1;
  line(context, xs, shown.map((i) => at(steps.median_us[i])), css('--accent'));
  for (const verdict of overview.verdicts) {
    const i = shown.find((n) => steps.end_us[n] >= verdict.onset_us);
    if (i === undefined) continue;
    context.strokeStyle = css('--bad');
    context.setLineDash([3, 3]);
    context.beginPath(); context.moveTo(atX(steps.step[i]), top); context.lineTo(atX(steps.step[i]), bottom); context.stroke();
    context.setLineDash([]);
  }
}

function drawParts(context, width, height, overview) {
  const steps = overview.steps, shown = wholeSteps(steps);
  if (shown.length === 0) return emptyText(context, width, height, 'No step has ended yet.');
  const totals = shown.map((i) => steps.parts_us[i].reduce((a, b) => a + b, 0));
  const usual = [...totals].sort((a, b) => a - b)[Math.floor(totals.length * 0.98)];
  const high = Math.min(Math.max(...totals), usual * 1.6) * 1.05 || 1;
  const x = { low: steps.step[shown[0]] - 0.5, high: steps.step[shown.at(-1)] + 0.5, format: (v) => 'step ' + v, whole: true };
  const { atX, atY, right, left, top } = axes(context, width, height, x, { low: 0, high, format: formatTime });
  context.save();
  context.beginPath(); context.rect(left, top, right - left, height); context.clip();
  const wide = (right - left) / shown.length;
  shown.forEach((i, n) => {
    let below = 0;
    const from = left + n * wide;
    steps.parts_us[i].forEach((value, part) => {
      if (value === 0) return;
      context.fillStyle = partColour(part);
      const y = atY(below + value);
      context.fillRect(from, y, Math.max(1, wide - (wide > 5 ? 1 : 0)), atY(below) - y);
      below += value;
    });
  });
  context.restore();
}

const overviewView = {
  paths: () => ['/api/overview'],
  mount(root) {
    this.figures = Object.fromEntries(['Step time', 'Throughput', 'Ranks', 'Waiting', 'Verdicts'].map((n) => [n, figure(n)]));
    this.data = null;
    this.steps = new Chart(210, (c, w, t) => this.data && drawSteps(c, w, t, this.data), 'Step time over steps');
    this.parts = new Chart(210, (c, w, t) => this.data && drawParts(c, w, t, this.data), 'Where the time of steps goes');
    attachTip(this.steps.canvas, (x) => this.stepTip(x, false));
    attachTip(this.parts.canvas, (x) => this.stepTip(x, true));
    this.legend = h('div');
    this.verdicts = h('div', { style: { minHeight: '60px' } });
    this.hints = h('div', { style: { minHeight: '60px' } });
    this.kept = h('p', { class: 'muted small' });
    fill(root, h('div', { class: 'figures' }, Object.values(this.figures).map((f) => f.element)),
      h('div', { class: 'row' },
        card('Step time', this.steps.canvas, h('p', { class: 'legend' }, 'line: median of the ranks · band: shortest to longest · dashed: a verdict’s onset')),
        card('Where the time goes, mean of the ranks', this.parts.canvas, this.legend)),
      h('div', { class: 'row' }, card('Verdicts', this.verdicts), card('What would make steps faster', this.hints)), this.kept);
    this.feed = null;
  },
  stepTip(x, parts) {
    const steps = this.data && this.data.steps;
    const shown = steps ? wholeSteps(steps) : [];
    if (!shown.length) return null;
    const right = this.steps.canvas.clientWidth - MARGIN.right;
    const share = (x - MARGIN.left) / (right - MARGIN.left);
    if (share < 0 || share > 1) return null;
    const i = shown[Math.min(shown.length - 1, Math.round(share * (shown.length - 1)))];
    const head = `step ${steps.step[i]}, ${plural(steps.ranks[i], 'rank')}\n`;
    if (!parts) return head + `median ${formatTime(steps.median_us[i])}\nshortest ${formatTime(steps.shortest_us[i])}\nlongest ${formatTime(steps.longest_us[i])} (rank ${steps.slowest[i]})`;
    return head + this.data.parts.map((p, n) => [p, steps.parts_us[i][n]]).filter(([, v]) => v > 0).map(([p, v]) => `${p} ${formatTime(v)}`).join('\n');
  },
  update([overview]) {
    this.data = overview;
    const steps = overview.steps, shown = wholeSteps(steps), last = shown.slice(-Math.min(16, shown.length));
    const f = this.figures;
    const time = median(last.map((i) => steps.median_us[i]));
    if (last.length) {
      const all = median(shown.map((i) => steps.median_us[i]));
      const change = time / (all || 1) - 1;
      f['Step time'].set(formatTime(time), `at step ${steps.step[last.at(-1)]}` + (Math.abs(change) >= 0.02 && shown.length > 32 ? `, ${change > 0 ? '+' : '−'}${formatShare(Math.abs(change))} to its usual` : ''));
      const a = last[0], b = last.at(-1);
      const rate = b > a ? (steps.step[b] - steps.step[a]) / (steps.end_us[b] - steps.end_us[a]) * 1e6 : 0;
      f.Throughput.set(overview.tokens_per_s > 0 ? formatShort(overview.tokens_per_s) + ' tok/s' : digits(rate) + ' steps/s',
        overview.tokens_per_s > 0 ? digits(rate) + ' steps/s' : '');
      const waits = overview.parts.map((_, p) => last.reduce((sum, i) => sum + steps.parts_us[i][p], 0) / last.length);
      const total = waits.reduce((s, v) => s + v, 0);
      const comm = waits.reduce((s, v, p) => s + (p >= overview.phases || p === 2 ? v : 0), 0);
      f.Waiting.set(formatShare(comm / (total || 1)), 'of a step, for other ranks');
    }
    const ranks = overview.ranks;
    const odd = ['silent', 'stopped', 'blocked', 'killed', 'exited'].filter((l) => ranks[l] > 0).map((l) => ranks[l] + ' ' + l);
    f.Ranks.set(`${formatCount(ranks.heard)} of ${formatCount(overview.world_size)}`, odd.join(', ') || `on ${plural(overview.hosts, 'host')}`);
    const open = overview.verdicts.filter((v) => v.cleared_us === 0);
    f.Verdicts.set(open.length ? String(open.length) : 'none', open.length ? `open, of ${overview.verdicts.length}` : overview.verdicts.length ? `${overview.verdicts.length} over` : 'nothing is wrong');
    this.steps.redraw();
    this.parts.redraw();
    fill(this.legend, legend(overview.parts, presentParts(overview.parts, steps.parts_us)));
    const text = JSON.stringify([overview.verdicts, overview.hints]);
    if (text !== this.feed) {
      this.feed = text;
      fill(this.verdicts, overview.verdicts.length ? ordered(overview.verdicts).slice(0, 6).map(([v, i]) => verdictCard(v, i, overview.first_us, true))
        : h('p', { class: 'empty' }, 'Nothing is wrong, as far as the records tell.'),
      overview.verdicts.length > 6 && h('p', {}, h('a', { href: '#verdicts' }, `all ${overview.verdicts.length} verdicts`)));
      fill(this.hints, hintList(overview.hints.slice(0, 4)));
    }
    const r = overview.recorded;
    this.kept.textContent = `${formatCount(r.operations)} collectives and messages, ${formatCount(r.spans)} spans in ${formatCount(r.batches)} batches; ` +
      (r.lost + r.shed + r.batches_missing === 0 ? 'nothing lost' : `lost: ${formatCount(r.lost)} records overwritten, ${formatCount(r.shed)} shed, ${formatCount(r.batches_missing)} batches missing`) +
      (overview.clock_error_us === null ? '; clocks of hosts are not compared yet' : `; clocks within ${formatTime(overview.clock_error_us)}`) + '.';
  },
};
