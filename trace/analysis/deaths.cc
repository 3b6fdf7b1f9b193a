// Deaths and silence.
#include "trace/analysis/stuck.h"

#include <algorithm>
#include <csignal>
#include <map>
#include <set>

namespace convoy::trace {
namespace {

// Deaths so close to each other have no order.
constexpr int64_t kTogether = 50'000'000;
// So long, others may go on without a rank that is dead.
constexpr int64_t kUnheardMin = 3'000'000'000;

struct Death {
  uint32_t rank = 0;
  int64_t alive = 0, dead = 0;  // root's clock: it died between these
  bool is_silent = false;
};

// Signals by which others end a process once the job has failed.
bool is_own_end(const RankTrack& rank) {
  if (rank.state.life != Life::kKilled) return false;
  const int signal = rank.state.exit_code;
  return signal != SIGTERM && signal != SIGABRT && signal != SIGINT && signal != SIGHUP;
}

// A batch that comes late concerns one rank, the end of a host all of its ranks.
bool has_gone_silent(const Ledger& ledger, const ClockModel& clocks, uint32_t rank) {
  const RankTrack& t = ledger.rank(rank);
  if (!ledger.is_silent(t) || ledger.is_surely_silent(t)) return ledger.is_surely_silent(t);
  if (clocks.host_of(rank) == ClockModel::kNone) return false;
  const std::vector<uint32_t> all = clocks.ranks_of(clocks.host_of(rank));
  return all.size() > 1 && std::all_of(all.begin(), all.end(), [&](uint32_t r) {
           return ledger.is_silent(ledger.rank(r));
         });
}

std::vector<Death> deaths_of(const Ledger& ledger, const ClockModel& clocks,
                             const std::vector<Cause>& causes) {
  std::set<uint32_t> blamed;
  for (const Cause& c : causes) {
    if (c.kind == Cause::kHost) blamed.insert(c.rank);
  }
  std::vector<Death> deaths;
  std::set<uint32_t> silent_hosts;
  const auto is_gone = [&](uint32_t r) {
    return has_gone_silent(ledger, clocks, r) && !goes_on_unheard(ledger, clocks, r);
  };
  const auto add_silent = [&](uint32_t r) {
    const RankTrack& t = ledger.rank(r);
    deaths.push_back({r, t.last_seen, t.last_seen + ledger.interval(t), true});
  };
  for (uint32_t r = 0; r < ledger.ranks().size(); ++r) {
    const RankTrack& t = ledger.rank(r);
    if (!t.is_seen) continue;
    if (t.is_dead()) {
      const bool is_failure = t.state.life == Life::kKilled || t.state.exit_code != 0;
      if (is_failure || blamed.contains(r)) deaths.push_back({r, t.alive, t.died, false});
    } else if (blamed.contains(r) && is_gone(r)) {
      add_silent(r);
      silent_hosts.insert(clocks.host_of(r));
    }
  }
  // Others of such a host, whom nobody waits for, have gone with it.
  for (uint32_t r = 0; r < ledger.ranks().size() && !silent_hosts.empty(); ++r) {
    const uint32_t host = clocks.host_of(r);
    if (host == ClockModel::kNone || !silent_hosts.contains(host) || blamed.contains(r)) continue;
    if (ledger.rank(r).is_seen && !ledger.rank(r).is_dead() && is_gone(r)) add_silent(r);
  }
  std::sort(deaths.begin(), deaths.end(), [](const Death& a, const Death& b) {
    return std::tie(a.dead, a.rank) < std::tie(b.dead, b.rank);
  });
  // Of those that may have died first, one that something has killed: errors follow from that.
  const auto may_be_first = [&](const Death& d) {
    return d.alive <= deaths.front().dead + kTogether;
  };
  const auto killed = std::find_if(deaths.begin(), deaths.end(), [&](const Death& d) {
    return may_be_first(d) && is_own_end(ledger.rank(d.rank));
  });
  if (killed != deaths.end()) std::rotate(deaths.begin(), killed, killed + 1);
  return deaths;
}

// Whether `rank` has not called `place`.
bool is_awaited_in(const Ledger& ledger, uint32_t rank, const Place& place) {
  const auto self = static_cast<int32_t>(rank);
  const bool sends = place.is_message() && place.sender == self;
  const int32_t peer = !place.is_message() ? -1 : sends ? place.receiver : place.sender;
  const Progress* p = ledger.rank(rank).find(place.group, peer, sends);
  return p == nullptr || p->issued < place.sequence;
}

// Whom `rank` was waiting for when it was last seen: those that had not called what it was in.
std::set<uint32_t> waited_for(const Ledger& ledger, uint32_t rank) {
  std::set<uint32_t> all;
  const auto& groups = ledger.registry().groups();
  for (const Operation& o : ledger.rank(rank).state.pending) {
    const Place place = place_of(ledger.registry(), rank, o);
    std::vector<uint32_t> members;
    if (place.is_message()) {
      members = {static_cast<uint32_t>(place.sender), static_cast<uint32_t>(place.receiver)};
    } else if (place.group < groups.size()) {
      members = groups[place.group].ranks;
    }
    for (const uint32_t m : members) {
      if (m != rank && is_awaited_in(ledger, m, place)) all.insert(m);
    }
  }
  return all;
}

// One rank's error ends all that wait for it within moments: of those that died together, the ones
// that were waited for and waited for nobody come first. False: there are no such.
bool awaited_first(const Ledger& ledger, std::vector<Death>& together) {
  std::set<uint32_t> awaited, waiting;
  for (const Death& d : together) {
    const std::set<uint32_t> others = waited_for(ledger, d.rank);
    if (!others.empty()) waiting.insert(d.rank);
    awaited.insert(others.begin(), others.end());
  }
  const auto is_cause = [&](const Death& d) {
    return awaited.contains(d.rank) && !waiting.contains(d.rank);
  };
  const auto rest = std::stable_partition(together.begin(), together.end(), is_cause);
  const bool is_told = rest != together.begin();
  if (is_told) together.erase(rest, together.end());
  return is_told;
}

std::string death_text(const Ledger& ledger, const Death& d) {
  const RankTrack& t = ledger.rank(d.rank);
  if (d.is_silent) return "nothing heard for " + seconds_text(ledger.horizon() - t.last_seen);
  if (t.state.life == Life::kKilled) {
    return "killed by signal " + std::to_string(t.state.exit_code);
  }
  return "exited with " + std::to_string(t.state.exit_code);
}

Verdict verdict_of(const Ledger& ledger, const ClockModel& clocks,
                   const std::vector<Death>& together, size_t others) {
  std::vector<uint32_t> ranks;
  bool has_called = false;
  for (const Death& d : together) {
    ranks.push_back(d.rank);
    has_called |= ledger.rank(d.rank).has_called();
  }
  const Class c = has_called ? Class::kCrash : Class::kNotJoined;
  const uint32_t first = together.front().rank;
  const int64_t active = clocks.root_time(first, ledger.rank(first).last_activity);
  const int64_t onset = std::max(together.front().alive, active);
  Verdict v = make_verdict(c, ranks, onset, together.front().is_silent ? 0.85 : 0.97);
  v.runner_up = has_called ? Class::kNetHang : Class::kCrash;
  v.runner_up_confidence = together.front().is_silent ? 0.1 : 0.02;
  add_hosts(v, clocks);
  for (const Death& d : together) add_evidence(v, d.rank, {}, death_text(ledger, d));
  v.summary = ranks_text(v.culprit.ranks) + ": " + description_of(c) + " (" +
              death_text(ledger, together.front()) + ")";
  if (others != 0) v.summary += "; " + std::to_string(others) + " died after it";
  return v;
}

}  // namespace

std::vector<Verdict> find_deaths(const Ledger& ledger, const ClockModel& clocks,
                                 const std::vector<Cause>& causes) {
  const std::vector<Death> deaths = deaths_of(ledger, clocks, causes);
  if (deaths.empty()) return {};
  // All of the job ends at once, by signals that are sent on purpose: nobody has crashed.
  const bool is_end = deaths.size() * 2 > ledger.ranks().size() && ledger.ranks().size() > 2 &&
                      std::all_of(deaths.begin(), deaths.end(),
                                  [&](const Death& d) {
                                    return !d.is_silent && !is_own_end(ledger.rank(d.rank));
                                  }) &&
                      deaths.back().alive <= deaths.front().dead + kTogether &&
                      ledger.rank(deaths.front().rank).state.exit_code == SIGTERM;
  if (is_end) return {};
  // The rest may have died of the first.
  std::vector<std::vector<Death>> groups(1);
  size_t others = 0;
  const bool are_few = deaths.size() * 4 <= ledger.ranks().size();
  for (const Death& d : deaths) {
    const Death& first = deaths.front();
    const bool is_first = d.rank == first.rank;
    const bool is_together = d.alive <= first.dead + kTogether;
    const bool is_near = clocks.host_of(d.rank) == clocks.host_of(first.rank);
    const bool is_own = d.is_silent || is_own_end(ledger.rank(d.rank));
    const bool is_first_own = first.is_silent || is_own_end(ledger.rank(first.rank));
    if (is_first || (is_together && is_own == is_first_own && (is_near || !is_own))) {
      groups.front().push_back(d);
    } else if (is_own && are_few) {
      const auto with = std::find_if(groups.begin() + 1, groups.end(), [&](const auto& g) {
        return clocks.host_of(g.front().rank) == clocks.host_of(d.rank) &&
               d.alive <= g.front().dead + kTogether;
      });
      if (with != groups.end()) {
        with->push_back(d);
      } else {
        groups.push_back({d});
      }
    } else {
      ++others;
    }
  }
  const bool has_first_own = deaths.front().is_silent || is_own_end(ledger.rank(deaths[0].rank));
  const size_t together = groups.front().size();
  if (together > 1 && !has_first_own && awaited_first(ledger, groups.front())) {
    others += together - groups.front().size();
  }
  std::vector<Verdict> found;
  for (const auto& g : groups)
    found.push_back(verdict_of(ledger, clocks, g, found.empty() ? others : 0));
  return found;
}

bool goes_on_unheard(const Ledger& ledger, const ClockModel& clocks, uint32_t rank) {
  const RankTrack& silent = ledger.rank(rank);
  // What it has done since it was last heard, others may know of; but not for long, if it died.
  const int64_t dead_by = silent.last_seen + std::max(2 * ledger.interval(silent), kUnheardMin);
  for (const Progress& p : silent.progress) {
    if (p.peer >= 0 || p.group >= ledger.registry().groups().size()) continue;
    for (const uint32_t m : ledger.registry().groups()[p.group].ranks) {
      if (m == rank) continue;
      const Progress* other = ledger.rank(m).find(p.group, -1, false);
      // One it may have called after it was last heard, and then died.
      if (other != nullptr && other->completed > p.issued + 1 &&
          clocks.root_time(m, ledger.rank(m).last_activity) > dead_by) {
        return true;
      }
    }
  }
  return false;
}

std::vector<Verdict> find_losses(const Ledger& ledger, const ClockModel& clocks) {
  std::map<int64_t, std::vector<uint32_t>> lost;  // by host, or by rank where it is not known
  for (uint32_t r = 0; r < ledger.ranks().size(); ++r) {
    const RankTrack& t = ledger.rank(r);
    if (!t.is_seen || t.is_dead()) continue;
    // Batches may be some seconds late without being lost.
    const int64_t limit = std::max(
        {2 * ledger.options().silent_after.count(), 3 * ledger.interval(t), 2 * ledger.lateness()});
    if (ledger.horizon() - t.last_seen <= limit || !goes_on_unheard(ledger, clocks, r)) continue;
    const uint32_t host = clocks.host_of(r);
    lost[host == ClockModel::kNone ? -1 - int64_t{r} : host].push_back(r);
  }
  std::vector<Verdict> found;
  for (const auto& [where, ranks] : lost) {
    const RankTrack& first = ledger.rank(ranks.front());
    Verdict v = make_verdict(Class::kTelemetryLoss, ranks, first.last_seen, 0.9);
    v.cost = 0;
    v.runner_up = Class::kCrash;
    v.runner_up_confidence = 0.05;
    add_hosts(v, clocks);
    for (const uint32_t r : ranks) {
      add_evidence(v, r, {},
                   "nothing heard for " +
                       seconds_text(ledger.horizon() - ledger.rank(r).last_seen) +
                       ", while collectives that it takes part in are completed");
    }
    v.summary = ranks_text(v.culprit.ranks) + ": " + description_of(v.cls);
    found.push_back(std::move(v));
  }
  return found;
}

}  // namespace convoy::trace
