#include "trace/analysis/mismatch.h"

#include <algorithm>

namespace convoy::trace {
namespace {

// A group's first mismatch is what counts; the following ones come of it.
constexpr size_t kKnownMax = 256;
// Calls behind the mismatch that are enough to tell its kind.
constexpr uint32_t kFollowing = 3;
constexpr uint32_t kContext = 4;

}  // namespace

Mismatches::Mismatches(const Ledger& ledger, const ClockModel& clocks, Join& join)
    : ledger_(ledger), clocks_(clocks), join_(join) {}

void Mismatches::note(const Place& place, bool is_stuck, const Join::Dissent* dissent) {
  const Key key{place.group, place.sender, place.receiver};
  if (known_.size() >= kKnownMax && !known_.contains(key)) return;
  Known& known = known_[key];
  if (known.found == 0 || (place.sequence < known.place.sequence && !known.is_final)) {
    if (known.found == 0) known.found = ledger_.horizon();
    if (place.sequence != known.place.sequence) known.told.clear();
    known.place = place;
  }
  if (known.place == place && dissent != nullptr) known.told.push_back(*dissent);
  known.is_stuck |= is_stuck;
}

void Mismatches::note_last_calls() {
  const auto& ranks = ledger_.ranks();
  if (std::none_of(ranks.begin(), ranks.end(), [](const RankTrack& r) { return r.is_dead(); })) {
    return;
  }
  std::map<std::pair<Key, uint32_t>, uint32_t> kinds;  // by place
  for (uint32_t r = 0; r < ranks.size(); ++r) {
    for (const Operation& o : ranks[r].state.pending) {
      const Place place = place_of(ledger_.registry(), r, o);
      const uint32_t kind = join_.kind_of(o.signature);
      const Key key{place.group, place.sender, place.receiver};
      const auto [at, is_new] = kinds.try_emplace({key, place.sequence}, kind);
      if (!is_new && at->second != kind) note(place, true, nullptr);
    }
  }
}

std::vector<Verdict> Mismatches::find(const std::vector<Cause>& stuck) {
  for (const Join::Dissent& d : join_.take_dissents()) {
    const Join::Owner& owner = join_.owners()[d.ring];
    Place place{owner.group, -1, -1, d.sequence};
    if (owner.sender != Join::kNone) {
      place.sender = static_cast<int32_t>(owner.sender);
      place.receiver = static_cast<int32_t>(owner.receiver);
    }
    note(place, false, &d);
  }
  for (const Cause& c : stuck) {
    if (c.kind == Cause::kMismatch) note(c.place, true, nullptr);
  }
  note_last_calls();
  std::vector<Verdict> found;
  for (auto& [key, known] : known_) {
    if (!known.is_final) judge(known);
    if (!known.verdict) continue;
    Verdict v = *known.verdict;
    v.cost = known.is_stuck ? 1 : 0;
    const auto same = std::find_if(found.begin(), found.end(), [&](const Verdict& f) {
      return f.cls == v.cls && f.culprit.ranks == v.culprit.ranks;
    });
    if (same == found.end()) {
      found.push_back(std::move(v));
    } else {
      same->onset = std::min(same->onset, v.onset);
      same->cost = std::max(same->cost, v.cost);
    }
  }
  return found;
}

std::vector<uint32_t> Mismatches::members(const Place& place) const {
  if (place.is_message()) {
    return {static_cast<uint32_t>(place.sender), static_cast<uint32_t>(place.receiver)};
  }
  const auto& groups = ledger_.registry().groups();
  return place.group < groups.size() ? groups[place.group].ranks : std::vector<uint32_t>{};
}

Signature Mismatches::like(const Place& place, uint32_t rank) const {
  Signature s;
  s.group = place.group;
  if (!place.is_message()) return s;
  const bool sends = rank == static_cast<uint32_t>(place.sender);
  s.operation = sends ? "send" : "recv";
  s.peer = sends ? place.receiver : place.sender;
  return s;
}

Mismatches::Calls Mismatches::calls(const Place& place, uint32_t rank) const {
  const RankTrack& r = ledger_.rank(rank);
  const Signature kind = like(place, rank);
  Calls calls;
  const auto add = [&](uint32_t signature, uint32_t sequence, int64_t issued, int64_t completed) {
    const Signature& s = ledger_.registry().signatures()[signature];
    if (s.group != kind.group || s.peer != kind.peer) return;
    if (s.is_message() && s.operation != kind.operation) return;
    calls.emplace(sequence, Told{join_.kind_of(signature), clocks_.root_time(rank, issued),
                                 clocks_.root_time(rank, completed)});
  };
  const size_t kept = std::min(r.next_call, r.calls.size());
  for (size_t i = 0; i < kept; ++i) {
    const Call& c = r.calls[i];
    add(c.signature, c.sequence, c.issued, c.completed);
  }
  for (const Operation& o : r.state.pending) add(o.signature, o.sequence, o.issued, 0);
  return calls;
}

// What usually follows the calls before `place`; as long a context as has come before.
std::optional<uint32_t> Mismatches::expected(const Place& place, const Calls& calls) const {
  for (uint32_t context = kContext; context >= 1; --context) {
    std::map<uint32_t, int> votes;
    for (const auto& [sequence, told] : calls) {
      if (sequence >= place.sequence || sequence <= context) continue;
      bool fits = true;
      for (uint32_t i = 1; i <= context && fits; ++i) {
        const auto then = calls.find(sequence - i), now = calls.find(place.sequence - i);
        fits = then != calls.end() && now != calls.end() && then->second.kind == now->second.kind;
      }
      if (fits) ++votes[told.kind];
    }
    if (votes.empty()) continue;
    const auto best = std::max_element(votes.begin(), votes.end(),
                                       [](auto& a, auto& b) { return a.second < b.second; });
    return best->first;
  }
  return std::nullopt;
}

std::vector<uint32_t> Mismatches::odd_ones(const Place& place, bool& is_sure) const {
  std::map<uint32_t, std::vector<uint32_t>> by_kind;
  std::map<uint32_t, uint64_t> seen;  // how often such calls were made before, by anybody
  size_t known = 0;
  for (const uint32_t m : members(place)) {
    const auto s = ledger_.signature_at(m, like(place, m), place.sequence);
    if (!s) continue;
    ++known;
    by_kind[join_.kind_of(*s)].push_back(m);
    seen[join_.kind_of(*s)] = ledger_.shape(*s).count;
  }
  if (by_kind.size() < 2) return {};
  is_sure = true;
  uint32_t right = 0;
  bool is_told = false;
  for (const auto& [kind, ranks] : by_kind) {
    if (ranks.size() * 2 > known) right = kind, is_told = true;
  }
  if (!is_told) {
    // As many say the one as the other: who does what it has always done is right.
    std::map<uint32_t, int> votes;
    for (const auto& [kind, ranks] : by_kind) {
      const auto usual = expected(place, calls(place, ranks.front()));
      if (usual && by_kind.contains(*usual)) ++votes[*usual];
    }
    if (votes.size() == 1) {
      right = votes.begin()->first;
    } else {
      const auto most = std::max_element(seen.begin(), seen.end(),
                                         [](auto& a, auto& b) { return a.second < b.second; });
      right = most->first;
      uint64_t others = 0;
      for (const auto& [kind, count] : seen) others += kind == right ? 0 : count;
      is_sure = most->second > 4 * others + 4;
    }
  }
  std::vector<uint32_t> odd;
  for (const auto& [kind, ranks] : by_kind) {
    if (kind != right) odd.insert(odd.end(), ranks.begin(), ranks.end());
  }
  return odd;
}

const Signature* Mismatches::signature_of_kind(uint32_t kind) const {
  const auto& all = ledger_.registry().signatures();
  for (uint32_t i = 0; i < all.size(); ++i) {
    if (join_.kind_of(i) == kind) return &all[i];
  }
  return nullptr;
}

Class Mismatches::differing(const Signature& odd, const Signature& rest) const {
  if (odd.operation != rest.operation && !odd.is_message()) return Class::kDesyncOrder;
  if (odd.root != rest.root) return Class::kMismatchRoot;
  if (odd.reduction != rest.reduction) return Class::kMismatchReduction;
  if (odd.dtype != rest.dtype) return Class::kMismatchDtype;
  return Class::kMismatchSize;
}

Class Mismatches::class_of(const Place& place, const Calls& odd, const Calls& rest,
                           double& confidence, Class& runner_up) const {
  const uint32_t s = place.sequence;
  const auto at = [](const Calls& c, uint32_t sequence) -> std::optional<uint32_t> {
    const auto i = c.find(sequence);
    return i == c.end() ? std::nullopt : std::optional(i->second.kind);
  };
  const auto odd_0 = at(odd, s), odd_1 = at(odd, s + 1), rest_0 = at(rest, s);
  std::optional<uint32_t> rest_1 = at(rest, s + 1);
  if (!rest_1) rest_1 = expected({place.group, place.sender, place.receiver, s + 1}, rest);
  const Signature* a = odd_0 ? signature_of_kind(*odd_0) : nullptr;
  const Signature* b = rest_0 ? signature_of_kind(*rest_0) : nullptr;
  if (a == nullptr || b == nullptr) return Class::kUnknown;
  const Class field = differing(*a, *b);
  confidence = 0.95;
  runner_up = field;
  const auto odd_2 = at(odd, s + 2), rest_2 = at(rest, s + 2);
  if (odd_0 == rest_1 && odd_1 && rest_2 && odd_1 != rest_0) {
    if (odd_1 == rest_2) return Class::kMissingCall;
    runner_up = Class::kMissingCall;
    // Back in step after one call: the call was there, its arguments were the next one's.
    if (odd_1 == rest_1) return field;
  }
  if (odd_0 == rest_1 && odd_1 == rest_0 && odd_2 && rest_2 && rest_2 != rest_1) {
    runner_up = odd_2 == rest_2 ? Class::kMissingCall : Class::kDesyncOrder;
    return odd_2 == rest_2 ? Class::kDesyncOrder : Class::kMissingCall;
  }
  const Came came = came_next(place, odd, rest);
  if (came == Came::kElsewhere) return field;
  // It stands where the others come next, and no more is seen of it. Where times don't tell, a call
  // that is left out is what happens more often.
  confidence = came == Came::kUnclear ? 0.6 : 0.75;
  runner_up = came == Came::kBefore ? Class::kMissingCall : Class::kDesyncOrder;
  return came == Came::kBefore ? Class::kDesyncOrder : Class::kMissingCall;
}

// How far apart in time the odd rank and the others usually make the same call.
int64_t Mismatches::scatter(const Place& place, uint32_t kind, const Calls& odd,
                            const Calls& rest) const {
  std::vector<int64_t> apart;
  for (const auto& [sequence, told] : odd) {
    const auto other = rest.find(sequence);
    if (sequence >= place.sequence || other == rest.end()) continue;
    if (told.kind == kind && other->second.kind == kind) {
      apart.push_back(std::abs(told.issued - other->second.issued));
    }
  }
  if (apart.empty()) return 0;
  std::sort(apart.begin(), apart.end());
  return apart[apart.size() * 3 / 4];
}

Mismatches::Came Mismatches::came_next(const Place& place, const Calls& odd,
                                       const Calls& rest) const {
  const auto here = odd.find(place.sequence), usual = rest.find(place.sequence);
  if (here == odd.end() || usual == rest.end()) return Came::kElsewhere;
  std::vector<int64_t> gaps;  // from the one to the other, in the odd rank's past or the others'
  for (const Calls* calls : {&odd, &rest}) {
    for (const auto& [sequence, told] : *calls) {
      if (sequence >= place.sequence || told.kind != usual->second.kind) continue;
      const auto next = calls->find(sequence + 1);
      if (next == calls->end() || next->first >= place.sequence) continue;
      if (next->second.kind != here->second.kind) continue;
      const int64_t to = next->second.issued;
      gaps.push_back(told.completed < to ? to - told.completed : to - told.issued);
    }
    if (!gaps.empty()) break;
  }
  if (gaps.empty()) return Came::kElsewhere;
  std::nth_element(gaps.begin(), gaps.begin() + static_cast<long>(gaps.size() / 2), gaps.end());
  const int64_t gap = gaps[gaps.size() / 2];
  if (gap / 2 < scatter(place, usual->second.kind, odd, rest)) return Came::kUnclear;
  return here->second.issued - usual->second.issued > gap / 2 ? Came::kNext : Came::kBefore;
}

void Mismatches::judge(Known& known) const {
  const Place& place = known.place;
  bool is_sure = false;
  const std::vector<uint32_t> odd = odd_ones(place, is_sure);
  if (odd.empty()) {
    // Too long ago for the calls that are kept; what was told then has to do.
    known.is_final = known.found + ledger_.options().hang_floor.count() < ledger_.horizon();
    return;
  }
  const std::vector<uint32_t> all = members(place);
  Calls rest_calls;
  size_t taken = 0;
  for (const uint32_t m : all) {
    if (std::find(odd.begin(), odd.end(), m) != odd.end()) continue;
    const Calls of_m = calls(place, m);
    rest_calls.insert(of_m.begin(), of_m.end());
    if (++taken == 4) break;
  }
  const Calls odd_calls = calls(place, odd.front());
  const bool has_followed = odd_calls.contains(place.sequence + kFollowing) &&
                            rest_calls.contains(place.sequence + kFollowing);
  const bool has_waited =
      known.found + ledger_.options().hang_floor.count() / 2 < ledger_.horizon();
  if (!has_followed && !has_waited && !known.is_stuck) return;
  double confidence = 0.5;
  Class runner_up = Class::kUnknown;
  Class c = class_of(place, odd_calls, rest_calls, confidence, runner_up);
  if (c == Class::kUnknown) return;
  if (!is_sure) confidence = std::min(confidence, 0.5);
  const auto s = ledger_.signature_at(odd.front(), like(place, odd.front()), place.sequence);
  int64_t onset = known.found;
  const auto find_time = [&](uint32_t sig, uint32_t seq, int64_t issued) {
    if (s && sig == *s && seq == place.sequence && issued != 0) {
      onset = clocks_.root_time(odd.front(), issued);
    }
  };
  const RankTrack& track = ledger_.rank(odd.front());
  for (const Call& call : track.calls) find_time(call.signature, call.sequence, call.issued);
  for (const Operation& o : track.state.pending) find_time(o.signature, o.sequence, o.issued);

  Verdict v = make_verdict(c, odd, onset, confidence);
  v.runner_up = runner_up == c ? Class::kUnknown : runner_up;
  v.runner_up_confidence = v.runner_up == Class::kUnknown ? 0 : (1 - confidence) / 2;
  const auto& signatures = ledger_.registry().signatures();
  const std::string here = place_text(ledger_.registry(), place);
  std::string what;
  for (const uint32_t m : odd) {
    const auto told = ledger_.signature_at(m, like(place, m), place.sequence);
    if (!told) continue;
    if (what.empty()) what = signature_text(signatures[*told]);
    add_evidence(v, m, place, here + ": " + signature_text(signatures[*told]));
  }
  std::string usual;
  for (const uint32_t m : all) {
    if (std::find(odd.begin(), odd.end(), m) != odd.end()) continue;
    const auto told = ledger_.signature_at(m, like(place, m), place.sequence);
    if (!told) continue;
    if (usual.empty()) usual = signature_text(signatures[*told]);
    add_evidence(v, m, place, here + ": " + signature_text(signatures[*told]));
    if (v.evidence.size() > odd.size() + 3) break;
  }
  v.summary = ranks_text(v.culprit.ranks) + ": " + description_of(c) + ": " + here + " is " + what +
              " there, " + usual + " elsewhere";
  known.verdict = std::move(v);
  known.is_final = has_followed;
}

}  // namespace convoy::trace
