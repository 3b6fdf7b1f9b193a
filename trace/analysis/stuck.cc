#include "trace/analysis/stuck.h"

#include <algorithm>
#include <csignal>

namespace convoy::trace {
namespace {

// When the first that waited for one of `ranks` was overdue; 0: nobody.
int64_t due_of(const std::vector<Cause>& causes, const std::vector<uint32_t>& ranks) {
  int64_t due = 0;
  for (const Cause& c : causes) {
    const bool is_theirs =
        c.kind == Cause::kHost && std::find(ranks.begin(), ranks.end(), c.rank) != ranks.end();
    if (is_theirs && (due == 0 || c.until < due)) due = c.until;
  }
  return due;
}

}  // namespace

std::vector<Verdict> Stuck::find(const std::vector<Cause>& causes,
                                 const std::vector<Verdict>& mismatched) const {
  std::vector<Verdict> found = find_deaths(ledger_, clocks_, causes);
  std::erase_if(found, [&](const Verdict& death) { return ended_by(mismatched, death); });
  for (Verdict& death : found) death.due = due_of(causes, death.culprit.ranks);
  const auto comes_of_mismatch = [&](const Verdict& v) {
    return std::any_of(mismatched.begin(), mismatched.end(), [&](const Verdict& m) {
      const auto& ranks = m.culprit.ranks;
      const bool is_rank = std::any_of(v.culprit.ranks.begin(), v.culprit.ranks.end(), [&](auto r) {
        return std::find(ranks.begin(), ranks.end(), r) != ranks.end();
      });
      return is_rank || std::any_of(v.evidence.begin(), v.evidence.end(), [&](const Evidence& e) {
               return e.sequence != 0 && e.group == m.evidence.front().group;
             });
    });
  };
  for (const Cause& cause : causes) {
    std::optional<Verdict> v = verdict_of(cause);
    if (!v || comes_of_mismatch(*v)) continue;
    // What several ranks of one host suffer alike is one.
    const auto same = std::find_if(found.begin(), found.end(), [&](const Verdict& f) {
      if (f.cls != v->cls || f.culprit.ranks.empty() || v->culprit.ranks.empty()) return false;
      const uint32_t host = clocks_.host_of(f.culprit.ranks.front());
      return v->cls == Class::kNotJoined ||
             (host != ClockModel::kNone && host == clocks_.host_of(v->culprit.ranks.front()) &&
              (v->cls == Class::kHostHang || v->cls == Class::kGpuStuck));
    });
    if (same == found.end()) {
      found.push_back(std::move(*v));
      continue;
    }
    same->culprit.ranks.insert(same->culprit.ranks.end(), v->culprit.ranks.begin(),
                               v->culprit.ranks.end());
    std::sort(same->culprit.ranks.begin(), same->culprit.ranks.end());
    const auto end = std::unique(same->culprit.ranks.begin(), same->culprit.ranks.end());
    same->culprit.ranks.erase(end, same->culprit.ranks.end());
    same->onset = std::min(same->onset, v->onset);
    same->due = std::min(same->due, v->due);
    for (const Evidence& e : v->evidence) {
      if (same->evidence.size() < 16) same->evidence.push_back(e);
    }
    same->summary = ranks_text(same->culprit.ranks) + ": " + description_of(same->cls);
  }
  for (Verdict& v : found) {
    if (v.cls == Class::kHostHang && v.culprit.hosts.empty()) add_hosts(v, clocks_);
  }
  return found;
}

// The error that calls at odds with each other end in, on ranks of that group.
bool Stuck::ended_by(const std::vector<Verdict>& mismatched, const Verdict& death) const {
  const auto has_failed = [&](uint32_t r) {
    const RankState& state = ledger_.rank(r).state;
    const bool is_abort = state.life == Life::kKilled && state.exit_code == SIGABRT;
    return (state.life == Life::kExited && state.exit_code != 0) || is_abort;
  };
  if (!std::all_of(death.culprit.ranks.begin(), death.culprit.ranks.end(), has_failed)) {
    return false;
  }
  return std::any_of(mismatched.begin(), mismatched.end(), [&](const Verdict& m) {
    if (m.cost < 1) return false;
    const auto& of_group = ledger_.registry().groups()[m.evidence.front().group].ranks;
    return std::any_of(death.culprit.ranks.begin(), death.culprit.ranks.end(), [&](uint32_t r) {
      return std::find(of_group.begin(), of_group.end(), r) != of_group.end();
    });
  });
}

bool Stuck::has_called(uint32_t rank, const Place& place) const {
  const auto self = static_cast<int32_t>(rank);
  const bool sends = place.is_message() && place.sender == self;
  const int32_t peer = !place.is_message() ? -1 : sends ? place.receiver : place.sender;
  const Progress* p = ledger_.rank(rank).find(place.group, peer, sends);
  return p != nullptr && p->issued >= place.sequence;
}

bool Stuck::has_gone_past(uint32_t rank, const Place& place) const {
  if (place.is_message() || place.group >= ledger_.registry().groups().size()) return false;
  for (const uint32_t other : ledger_.registry().groups()[place.group].ranks) {
    if (other == rank || !has_called(other, place)) continue;
    // In what both take part in it is ahead, or has called what `other` calls after `place`.
    bool is_after = false;
    for (const Operation& o : ledger_.rank(other).state.pending) {
      const Signature& s = ledger_.registry().signatures()[o.signature];
      if (s.is_message()) continue;
      if (s.group == place.group) {
        is_after |= o.sequence == place.sequence;
        continue;
      }
      const Progress* mine = ledger_.rank(rank).find(s.group, -1, false);
      if (is_after && mine != nullptr && mine->issued >= o.sequence) return true;
    }
    for (const Progress& p : ledger_.rank(rank).progress) {
      if (p.peer >= 0 || p.group == place.group) continue;
      const Progress* of_other = ledger_.rank(other).find(p.group, -1, false);
      if (of_other != nullptr && of_other->issued != 0 && of_other->issued < p.issued) return true;
    }
  }
  return false;
}

void Stuck::add_victim(Verdict& verdict, const Cause& cause) const {
  const std::string others =
      cause.waiting > 1 ? ", the first of " + std::to_string(cause.waiting) + " victims" : "";
  add_evidence(verdict, cause.victim, cause.victim_place,
               "waits in " + place_text(ledger_.registry(), cause.victim_place) + " for " +
                   seconds_text(ledger_.horizon() - cause.since) + others);
}

std::optional<Verdict> Stuck::verdict_of(const Cause& cause) const {
  std::optional<Verdict> v = undated(cause);
  if (v) v->due = cause.until;
  return v;
}

std::optional<Verdict> Stuck::undated(const Cause& cause) const {
  switch (cause.kind) {
    case Cause::kHost:
      return of_host(cause);
    case Cause::kGpu:
      return of_gpu(cause);
    case Cause::kNetwork:
      return of_network(cause);
    case Cause::kCycle:
      return of_cycle(cause);
    case Cause::kMismatch:
    case Cause::kUnsure:
      break;
  }
  return std::nullopt;
}

std::optional<Verdict> Stuck::of_host(const Cause& cause) const {
  const RankTrack& rank = ledger_.rank(cause.rank);
  const std::string who = ranks_text({cause.rank});
  if (!rank.is_seen) {
    // Its first batch may only be late: it has taken part in what is completed.
    const Progress* others = ledger_.rank(cause.victim).find(cause.victim_place.group, -1, false);
    if (others != nullptr && others->completed != 0) return std::nullopt;
    Verdict v = make_verdict(Class::kNotJoined, {cause.rank}, cause.since, 0.9);
    v.runner_up = Class::kCrash;
    v.runner_up_confidence = 0.05;
    add_evidence(v, cause.rank, {}, "nothing was ever heard of it");
    add_victim(v, cause);
    v.summary = who + ": " + description_of(v.cls);
    return v;
  }
  // Deaths are told together.
  if (rank.is_dead() || ledger_.is_silent(rank)) return std::nullopt;
  const RankTrack& victim = ledger_.rank(cause.victim);
  const int64_t step = ledger_.step_of(rank), victim_step = ledger_.step_of(victim);
  const bool is_ahead = step > victim_step && victim_step > 0;
  // It has been seen without the call once that was overdue.
  if (rank.last_seen < cause.until) return std::nullopt;
  if (is_ahead && cause.victim_place.is_message()) return unmatched(cause, cause.victim_place);
  if (is_ahead && !has_called(cause.rank, cause.victim_place)) {
    return missing(cause, cause.rank, cause.victim_place);
  }
  for (const Place& place : cause.places) {
    if (has_gone_past(cause.rank, place)) return missing(cause, cause.rank, place);
  }
  const bool is_held = rank.state.life == Life::kStopped || rank.state.life == Life::kBlocked;
  if (!is_held && ledger_.idle(rank) <= ledger_.idle_limit(rank)) return std::nullopt;
  const std::string* span = ledger_.open_span(rank);
  const bool is_storage = rank.state.life == Life::kBlocked && span != nullptr &&
                          (*span == names::kCheckpoint || *span == names::kData);
  const bool has_come = rank.has_called();
  const Class c = is_storage  ? Class::kStorageStall
                  : !has_come ? Class::kNotJoined
                              : Class::kHostHang;
  Verdict v = make_verdict(c, {cause.rank}, clocks_.root_time(cause.rank, rank.last_activity),
                           is_held ? 0.97 : 0.9);
  if (v.onset == 0) v.onset = cause.since;
  v.runner_up = Class::kMissingCall;
  v.runner_up_confidence = 0.05;
  std::string text = "alive";
  if (rank.state.life == Life::kStopped) text = "stopped by a signal";
  if (rank.state.life == Life::kBlocked) text = "blocked in the kernel";
  text += ", called nothing for " + seconds_text(ledger_.idle(rank));
  if (span != nullptr) text += ", in '" + *span + "'";
  add_evidence(v, cause.rank, {}, text);
  add_victim(v, cause);
  v.summary = who + ": " + description_of(c) + " (" + text + ")";
  return v;
}

Verdict Stuck::missing(const Cause& cause, uint32_t rank, const Place& place) const {
  Verdict v = make_verdict(Class::kMissingCall, {rank}, cause.since, 0.85);
  v.runner_up = Class::kHostHang;
  v.runner_up_confidence = 0.1;
  add_victim(v, cause);
  add_evidence(v, rank, place,
               "has gone on, in step " + std::to_string(ledger_.step_of(ledger_.rank(rank))) +
                   ", without having called " + place_text(ledger_.registry(), place));
  v.summary = ranks_text({rank}) + ": " + description_of(v.cls) + ": " +
              place_text(ledger_.registry(), place);
  return v;
}

std::optional<Verdict> Stuck::unmatched(const Cause& cause, const Place& message) const {
  const auto sender = static_cast<uint32_t>(message.sender);
  const auto receiver = static_cast<uint32_t>(message.receiver);
  Verdict v = make_verdict(Class::kMessageUnmatched, {}, cause.since, 0.85);
  v.culprit.links = {{sender, receiver}};
  v.runner_up = Class::kDeadlockCycle;
  v.runner_up_confidence = 0.1;
  const std::string text = place_text(ledger_.registry(), message);
  const bool is_sent = has_called(sender, message);
  add_evidence(v, is_sent ? sender : receiver, message,
               is_sent ? "sends " + text : "awaits " + text);
  add_evidence(v, is_sent ? receiver : sender, message,
               "has not called its side, and waits elsewhere or has gone on");
  add_victim(v, cause);
  v.summary = text + ": " + description_of(v.cls);
  return v;
}

std::optional<Verdict> Stuck::of_gpu(const Cause& cause) const {
  const RankTrack& rank = ledger_.rank(cause.rank);
  if (rank.last_seen < cause.until || cause.place.sequence == 0) return std::nullopt;
  const Operation* waiting = nullptr;
  for (const Operation& o : rank.state.pending) {
    const Signature& s = ledger_.registry().signatures()[o.signature];
    if (o.sequence == cause.place.sequence && s.group == cause.place.group &&
        s.is_message() == cause.place.is_message()) {
      waiting = &o;
    }
  }
  if (waiting != nullptr) {
    if (ledger_.age(rank, *waiting) <= ledger_.deadline(waiting->signature)) return std::nullopt;
    // The host may be far ahead of a GPU that works.
    const int64_t limit = ledger_.device_idle_limit(waiting->signature);
    if (ledger_.device_idle(rank) <= limit) return std::nullopt;
  }
  Verdict v = make_verdict(Class::kGpuStuck, {cause.rank}, cause.since, 0.92);
  if (waiting != nullptr) v.onset = clocks_.root_time(cause.rank, waiting->issued);
  v.runner_up = Class::kHostHang;
  v.runner_up_confidence = 0.04;
  add_evidence(v, cause.rank, cause.place,
               "has called " + place_text(ledger_.registry(), cause.place) +
                   ", which has not started; nothing before it is under way");
  add_victim(v, cause);
  v.summary = ranks_text({cause.rank}) + ": " + description_of(v.cls) + " (" +
              place_text(ledger_.registry(), cause.place) + ")";
  return v;
}

std::optional<Verdict> Stuck::of_network(const Cause& cause) const {
  std::vector<uint32_t> members;
  if (cause.place.is_message()) {
    members = {static_cast<uint32_t>(cause.place.sender),
               static_cast<uint32_t>(cause.place.receiver)};
  } else {
    members = ledger_.registry().groups()[cause.place.group].ranks;
  }
  bool tell_starts = true;
  for (const uint32_t m : members) {
    if (ledger_.rank(m).last_seen < cause.until) return std::nullopt;
    tell_starts &= ledger_.rank(m).tells_starts;
  }
  std::optional<DeadLink> link = find_dead_link(ledger_, members);
  if (cause.place.is_message()) {
    link = DeadLink{members[0], members[1], 0.9, "the message is under way and does not come"};
  }
  const bool is_known = link.has_value() || tell_starts;
  const Class c = is_known ? Class::kNetHang : Class::kUnknown;
  Verdict v = make_verdict(c, {}, cause.since, link ? link->confidence : is_known ? 0.6 : 0.3);
  v.runner_up = Class::kGpuStuck;
  v.runner_up_confidence = link ? 0.04 : 0.2;
  const std::string where = place_text(ledger_.registry(), cause.place);
  if (link) {
    v.culprit.links = {{link->sender, link->receiver}};
    add_evidence(v, link->sender, cause.place,
                 "to rank " + std::to_string(link->receiver) + ": " + link->text);
  }
  if (!link) v.culprit.groups = {cause.place.group};
  add_victim(v, cause);
  v.summary = where + ": " + description_of(c);
  if (link) {
    v.summary = "link of rank " + std::to_string(link->sender) + " to rank " +
                std::to_string(link->receiver) + ": " + v.summary;
  }
  return v;
}

std::optional<Verdict> Stuck::of_cycle(const Cause& cause) const {
  const auto& cycle = cause.cycle;
  for (const auto& [rank, place] : cycle) {
    if (ledger_.rank(rank).last_seen < cause.until) return std::nullopt;
  }
  const Place* sent = nullptr;
  size_t messages = 0;
  for (size_t i = 0; i < cycle.size(); ++i) {
    const auto& [rank, place] = cycle[i];
    const uint32_t next = cycle[(i + 1) % cycle.size()].first;
    const int64_t step = ledger_.step_of(ledger_.rank(rank));
    if (step > 0 && ledger_.step_of(ledger_.rank(next)) > step && !has_called(next, place)) {
      if (place.is_message()) return unmatched(cause, place);
      return missing(cause, next, place);
    }
    if (!place.is_message()) continue;
    ++messages;
    const bool sends = place.sender == static_cast<int32_t>(rank);
    if (sends && !has_called(static_cast<uint32_t>(place.receiver), place)) sent = &place;
  }
  if (sent != nullptr && messages < cycle.size()) return unmatched(cause, *sent);
  std::vector<uint32_t> ranks;
  std::vector<uint32_t> groups;
  for (const auto& [rank, place] : cycle) {
    ranks.push_back(rank);
    if (std::find(groups.begin(), groups.end(), place.group) == groups.end()) {
      groups.push_back(place.group);
    }
  }
  std::sort(groups.begin(), groups.end());
  Verdict v = make_verdict(Class::kDeadlockCycle, ranks, cause.since, 0.92);
  v.culprit.groups = groups;
  v.runner_up = Class::kMissingCall;
  v.runner_up_confidence = 0.05;
  for (size_t i = 0; i < cycle.size(); ++i) {
    add_evidence(v, cycle[i].first, cycle[i].second,
                 "waits in " + place_text(ledger_.registry(), cycle[i].second) + " for rank " +
                     std::to_string(cycle[(i + 1) % cycle.size()].first));
  }
  v.summary = ranks_text(v.culprit.ranks) + ": " + description_of(v.cls);
  return v;
}

}  // namespace convoy::trace
