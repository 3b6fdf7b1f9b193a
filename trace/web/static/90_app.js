'use strict';
// Which view is shown, and keeping it up to date.

const VIEWS = { overview: overviewView, ranks: ranksView, rank: rankView, groups: groupsView, group: groupView, instance: instanceView, links: linksView, verdicts: verdictView, verdict: verdictView };
const TABS = [['overview', 'Overview'], ['ranks', 'Ranks'], ['groups', 'Groups'], ['links', 'Links'], ['verdicts', 'Verdicts']];
const TAB_OF = { rank: 'ranks', group: 'groups', instance: 'groups', verdict: 'verdicts' };
const REFRESH_MS = 2000;

const app = {
  start() {
    document.documentElement.dataset.theme = firstTheme();
    this.source = new Source();
    this.title = h('h1', {}, 'Convoy trace');
    this.about = h('span', { class: 'muted small' });
    this.state = h('span', { class: 'pill' }, this.source.live ? 'connecting' : 'report');
    this.tabs = TABS.map(([name, text]) => h('a', { href: '#' + name }, text));
    this.root = h('main', { id: 'main', tabindex: -1 });
    this.notice = h('div', { class: 'notice', hidden: true, role: 'alert' });
    const toggle = h('button', { onclick: () => { setTheme(theme() === 'dark' ? 'light' : 'dark'); this.show(); } }, 'Light / dark');
    document.body.prepend(
      h('a', { href: '#main', class: 'skip', onclick: (e) => { e.preventDefault(); this.root.focus(); } }, 'To the content'),
      h('header', {}, h('div', { class: 'bar' }, this.title, this.about, h('span', { class: 'grow' }), h('nav', { 'aria-label': 'Views' }, this.tabs), this.state, toggle)),
      h('div', { class: 'bar' }, this.notice), this.root, tip);
    this.notice.parentElement.hidden = true;
    addEventListener('hashchange', () => this.show());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { document.documentElement.dataset.theme = firstTheme(); this.show(); });
    this.show();
    if (this.source.live) setInterval(() => { if (!document.hidden) this.refresh(); }, REFRESH_MS);
  },
  async show() {
    const [name, ...parameters] = decodeURIComponent(location.hash.slice(1) || 'overview').split('/');
    this.name = name in VIEWS ? name : 'overview';
    this.parameters = parameters;
    this.view = VIEWS[this.name];
    const tab = TAB_OF[this.name] || this.name;
    this.tabs.forEach((a, i) => (TABS[i][0] === tab ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current')));
    hideTip();
    this.view.names = this.view.dimNames = null;
    this.view.mount(this.root, parameters);
    await this.refresh();
    if (this.name !== 'verdict') scrollTo(0, 0);
  },
  async refresh() {
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    const { view, parameters } = this;
    try {
      const paths = [...view.paths(parameters)];
      if (!paths.includes('/api/overview')) paths.push('/api/overview');
      const data = await Promise.all(paths.map((path) => this.source.get(path)));
      if (view === this.view && parameters === this.parameters) {
        this.head(data[paths.indexOf('/api/overview')]);
        view.update(data, parameters);
        this.say('');
      }
    } catch (error) {
      this.say(error instanceof TypeError && this.source.live && !(/undefined|null|function/.test(error.message)) ? 'The job’s aggregator does not answer; it may have ended.' : error.message);
      if (!(error.message || '').startsWith('This report')) console.error(error);
    } finally {
      this.busy = false;
      if (this.again) { this.again = false; this.refresh(); }
    }
  },
  say(text) {
    this.notice.textContent = text;
    this.notice.hidden = text === '';
    this.notice.parentElement.hidden = text === '';
    if (text && this.source.live) { this.state.textContent = 'no answer'; this.state.className = 'pill warn'; }
  },
  head(overview) {
    const open = overview.verdicts.filter((v) => v.cleared_us === 0).length;
    this.title.textContent = overview.job || 'Convoy trace';
    document.title = (open ? `(${open}) ` : '') + (overview.job || 'job') + ' – Convoy trace';
    const mesh = overview.mesh.filter((d) => d.size > 1).map((d) => `${d.name} ${d.size}`).join(' × ');
    this.about.textContent = plural(overview.world_size, 'rank') + (mesh ? `, ${mesh}` : '') + (overview.generation > 0 ? `, generation ${overview.generation}` : '');
    this.state.textContent = (this.source.live ? 'live' : 'report') + (open ? `, ${plural(open, 'verdict')}` : '');
    this.state.className = 'pill ' + (open ? 'bad' : 'good');
  },
};
app.start();
