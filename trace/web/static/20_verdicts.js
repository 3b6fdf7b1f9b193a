'use strict';
// Verdicts: who is to blame, how sure that is, what to do, and what it rests on.

function rankLink(rank) { return h('a', { href: '#rank/' + rank }, 'rank ' + rank); }
function groupLink(group, sequence) {
  return h('a', { href: sequence ? `#instance/${group.id}/${sequence}` : '#group/' + group.id }, group.name + (sequence ? ' #' + sequence : ''));
}
function culprits(culprit) {
  const chips = [
    ...culprit.hosts.map((host) => h('span', {}, 'host ' + host)),
    ...culprit.ranks.slice(0, 16).map(rankLink),
    ...culprit.links.slice(0, 8).map(([from, to]) => h('span', {}, 'link ', rankLink(from), ' → ', rankLink(to))),
    ...culprit.groups.map((group) => h('span', {}, 'group ', groupLink(group))),
  ];
  if (culprit.stage >= 0) chips.push(h('span', {}, 'stage ' + culprit.stage));
  if (culprit.all_ranks > 16) chips.push(h('span', { class: 'muted' }, `and ${culprit.all_ranks - 16} more ranks`));
  if (culprit.all_links > 8) chips.push(h('span', { class: 'muted' }, `and ${culprit.all_links - 8} more links`));
  return chips.length ? h('div', { class: 'chips' }, chips) : 'nobody in particular';
}
function meter(share) {
  return h('span', {}, h('span', { class: 'meter' }, h('i', { style: { width: share * 100 + '%' } })), formatShare(share));
}

function evidenceTable(evidence) {
  const table = new Table([
    { name: 'Rank', show: (e) => rankLink(e.rank) },
    { name: 'Collective', show: (e) => (e.sequence ? groupLink(e.group, e.sequence) : '') },
    { name: 'What is seen there', show: (e) => e.text },
  ], { empty: 'No single record.', limit: 24 });
  table.set(evidence);
  return table.element;
}

function verdictCard(verdict, index, first, short) {
  const over = verdict.cleared_us !== 0;
  const head = h('div', { class: 'head' },
    h('span', { class: 'pill ' + (over ? '' : 'bad') }, verdict.class.replaceAll('_', ' ')),
    h('span', { class: 'muted small' }, 'since ' + formatMoment(verdict.onset_us, first)),
    over && h('span', { class: 'muted small' }, 'over after ' + formatTime(verdict.cleared_us - verdict.onset_us)),
    verdict.cost > 0 && h('span', { class: 'small' }, 'costs ' + formatShare(verdict.cost) + ' of the step'),
    h('span', { class: 'small' }, meter(verdict.confidence), ' sure'));
  const what = h('p', { class: 'what' }, short ? h('a', { href: '#verdict/' + index }, verdict.summary || verdict.description) : verdict.summary || verdict.description);
  const action = verdict.action && h('p', { class: 'do' }, h('strong', {}, 'Do: '), verdict.action);
  if (short) return h('article', { class: 'verdict' + (over ? ' over' : '') }, head, what, action);
  const facts = [
    ['Culprit', culprits(verdict.culprit)],
    ['Meaning', verdict.description],
    ['Found', formatTime(verdict.told_us - verdict.onset_us) + ' after it began' +
      (verdict.due_us && verdict.told_us > verdict.due_us ? ', ' + formatTime(verdict.told_us - verdict.due_us) + ' after the deadline of what waits' : '')],
    verdict.period_s > 0 && ['Period', formatTime(verdict.period_s * 1e6)],
    verdict.runner_up_confidence > 0 && ['Else', h('span', {}, verdict.runner_up.replaceAll('_', ' '), ' ', meter(verdict.runner_up_confidence))],
  ].filter(Boolean);
  return h('article', { class: 'verdict' + (over ? ' over' : ''), id: 'verdict-' + index, tabindex: -1 }, head, what, action,
    h('dl', {}, facts.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])),
    h('h3', { style: { margin: '12px 0 4px' } }, 'Evidence'), evidenceTable(verdict.evidence));
}

// Open ones first, then the newest.
function ordered(verdicts) {
  return verdicts.map((v, i) => [v, i]).sort(([a], [b]) =>
    (a.cleared_us !== 0) - (b.cleared_us !== 0) || b.onset_us - a.onset_us);
}
function hintList(hints) {
  if (!hints.length) return h('p', { class: 'empty' }, 'No hint: nothing stands out in these steps.');
  return h('div', {}, hints.map((hint) => h('div', { class: 'hint' },
    h('div', { class: 'head' }, h('strong', {}, hint.name), ' ', h('span', { class: 'pill good' }, '−' + formatShare(hint.gain) + ' step time'), ' ',
      h('span', { class: 'small' }, meter(hint.confidence), ' sure')),
    h('p', {}, hint.summary),
    hint.evidence.length > 0 && h('details', {}, h('summary', { class: 'muted small' }, plural(hint.evidence.length, 'piece') + ' of evidence'), evidenceTable(hint.evidence)))));
}

const verdictView = {
  paths: () => ['/api/overview'],
  mount(root) {
    this.list = h('div');
    this.hints = h('div');
    fill(root, card('Verdicts', this.list), card('What would make steps faster', this.hints));
    this.shown = null;
  },
  update([overview], [wanted]) {
    // Left alone while nothing has changed, so that nobody loses place or selection.
    const text = JSON.stringify([overview.verdicts, overview.hints]);
    if (text === this.shown) return;
    const isFirst = this.shown === null;
    this.shown = text;
    fill(this.list, overview.verdicts.length ? ordered(overview.verdicts).map(([v, i]) => verdictCard(v, i, overview.first_us, false))
      : h('p', { class: 'empty' }, 'Nothing is wrong, as far as the records tell.'));
    fill(this.hints, hintList(overview.hints));
    const target = document.getElementById('verdict-' + wanted);
    if (isFirst && target) { target.scrollIntoView({ block: 'center' }); target.focus({ preventScroll: true }); }
  },
};
