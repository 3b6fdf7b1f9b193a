// Groups and their collectives; and what a short report picks.
#include "trace/summary/impl.h"
#include <convoy/trace/summary.h>

#include <algorithm>
#include <set>

namespace convoy::trace {

using Json = nlohmann::ordered_json;

namespace {

struct Waiting {
  uint32_t count = 0;     // collectives that some members have not completed
  int64_t since = 0;      // oldest issue of these
  uint32_t sequence = 0;  // of that one
};

Waiting waiting_in(const Group& group) {
  Waiting waiting;
  for (const Instance& instance : group.ring) {
    if (instance.sequence == 0 || instance.completed == instance.members.size()) continue;
    ++waiting.count;
    const int64_t issue = timing_of(instance).first_issue;
    if (waiting.since == 0 || issue < waiting.since) {
      waiting.since = issue;
      waiting.sequence = instance.sequence;
    }
  }
  return waiting;
}

Json operations_json(const Collectives& collectives) {
  Json rows = Json::array();
  for (const auto& [key, f] : collectives.figures()) {
    if (f.seen.count() == 0) continue;
    const auto& [kind, operation, size] = key;
    const double transfer = f.transfer.sum();
    const double mean_bytes = static_cast<double>(f.bytes) / static_cast<double>(f.seen.count());
    const double each =
        f.transfer.count() > 0 ? transfer / static_cast<double>(f.transfer.count()) * 1e-9 : 0;
    const auto us = [](const Histogram& h, double q) {
      return micros(static_cast<int64_t>(h.quantile(q)));
    };
    rows.push_back({{"kind", collectives.kinds()[kind]},
                    {"operation", operation},
                    {"bytes", static_cast<int64_t>(mean_bytes)},
                    {"count", f.seen.count()},
                    {"p50_us", us(f.seen, 0.5)},
                    {"p99_us", us(f.seen, 0.99)},
                    {"max_us", micros(static_cast<int64_t>(f.seen.max()))},
                    {"instances", f.transfer.count()},
                    {"transfer_p50_us", us(f.transfer, 0.5)},
                    {"transfer_p99_us", us(f.transfer, 0.99)},
                    {"skew_p50_us", us(f.skew, 0.5)},
                    {"skew_p99_us", us(f.skew, 0.99)},
                    {"bytes_per_s", each > 0 ? static_cast<int64_t>(mean_bytes / each) : 0}});
  }
  return rows;
}

double mean_us(double sum_ns, uint64_t count) {
  return count == 0 ? 0 : sum_ns / static_cast<double>(count) * 1e-3;
}

// Groups with something that hangs first, then those with most skew.
std::vector<uint32_t> order_of(const Collectives& collectives,
                               const std::vector<Waiting>& waiting) {
  std::vector<uint32_t> order;
  for (uint32_t id = 0; id < collectives.all().size(); ++id) {
    if (collectives.find(id) != nullptr) order.push_back(id);
  }
  const auto rank_of = [&](uint32_t id) {
    const Group& g = collectives.all()[id];
    return mean_us(g.skew_ns, g.completed);
  };
  std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) {
    const int64_t x = waiting[a].since, y = waiting[b].since;
    if ((x != 0) != (y != 0)) return x != 0;
    if (x != y) return x < y;
    return rank_of(a) > rank_of(b);
  });
  return order;
}

std::vector<Waiting> all_waiting(const Collectives& collectives) {
  std::vector<Waiting> waiting;
  for (const Group& group : collectives.all()) waiting.push_back(waiting_in(group));
  return waiting;
}

}  // namespace

std::string Summary::groups() const {
  const Impl& s = *impl_;
  const std::vector<Waiting> waiting = all_waiting(s.collectives);
  const std::vector<uint32_t> order = order_of(s.collectives, waiting);
  Json rows = Json::array();
  for (const uint32_t id : order) {
    if (rows.size() == kGroupsShown) break;
    const Group& g = s.collectives.all()[id];
    rows.push_back({{"id", id},
                    {"name", g.info.name},
                    {"kind", s.collectives.kinds()[g.kind]},
                    {"size", g.info.ranks.size()},
                    {"first_rank", g.info.ranks.empty() ? Json() : Json(g.info.ranks.front())},
                    {"latest", g.latest},
                    {"completed", g.completed},
                    {"skew_us", static_cast<int64_t>(mean_us(g.skew_ns, g.completed))},
                    {"transfer_us", static_cast<int64_t>(mean_us(g.transfer_ns, g.completed))},
                    {"waiting", waiting[id].count},
                    {"waiting_us", waiting[id].since == 0 ? 0 : micros(s.now - waiting[id].since)},
                    {"waiting_for", waiting[id].sequence}});
  }
  return Json{
      {"all", order.size()}, {"operations", operations_json(s.collectives)}, {"groups", rows}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> Summary::group(uint32_t id) const {
  const Impl& s = *impl_;
  const Group* const g = s.collectives.find(id);
  if (g == nullptr) return Status(Code::kNotFound, "there is no group " + std::to_string(id));
  std::vector<const Instance*> kept;
  for (const Instance& i : g->ring) {
    if (i.sequence != 0) kept.push_back(&i);
  }
  std::ranges::sort(kept, {}, &Instance::sequence);
  Json rows = Json::array();
  for (const Instance* i : kept) {
    const Timing t = timing_of(*i);
    rows.push_back({{"sequence", i->sequence},
                    {"text", s.signature_text(i->signature)},
                    {"differ", s.differ(*i)},
                    {"issued", i->issued},
                    {"completed", i->completed},
                    {"first_arrival_us", micros(t.first_arrival)},
                    {"last_arrival_us", micros(t.last_arrival)},
                    {"end_us", micros(t.end)},
                    {"last_rank", g->info.ranks[t.last_member]}});
  }
  Json ranks = Json::array();
  for (size_t i = 0; i < std::min(g->info.ranks.size(), kListMax); ++i) {
    ranks.push_back(g->info.ranks[i]);
  }
  return Json{{"id", id},
              {"name", g->info.name},
              {"kind", s.collectives.kinds()[g->kind]},
              {"size", g->info.ranks.size()},
              {"ranks", ranks},
              {"now_us", micros(s.now)},
              {"instances", rows}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::string> Summary::instance(uint32_t group, uint32_t sequence) const {
  const Impl& s = *impl_;
  const Group* const g = s.collectives.find(group);
  const Instance* const i = g == nullptr || g->ring.empty() || sequence == 0
                                ? nullptr
                                : &g->ring[sequence % g->ring.size()];
  if (i == nullptr || i->sequence != sequence) {
    return Status(Code::kNotFound, "collective " + std::to_string(sequence) + " of group " +
                                       std::to_string(group) + " is not kept");
  }
  const Timing t = timing_of(*i);
  Json rank = Json::array(), issued = Json::array(), started = Json::array(),
       completed = Json::array(), text = Json::array(), texts = Json::array();
  std::vector<uint32_t> signatures;
  // Relative to the first issue; null: not yet.
  const auto relative = [&](int64_t time) {
    return time == 0 ? Json() : Json(micros(time - t.first_issue));
  };
  for (size_t n = 0; n < i->members.size(); ++n) {
    const Member& m = i->members[n];
    rank.push_back(g->info.ranks[n]);
    issued.push_back(relative(m.issued));
    started.push_back(relative(m.started));
    completed.push_back(relative(m.completed));
    if (m.issued == 0) {
      text.push_back(-1);
      continue;
    }
    auto at = std::ranges::find(signatures, m.signature);
    if (at == signatures.end()) {
      signatures.push_back(m.signature);
      texts.push_back(s.signature_text(m.signature));
      at = signatures.end() - 1;
    }
    text.push_back(at - signatures.begin());
  }
  return Json{{"group", group},
              {"name", g->info.name},
              {"kind", s.collectives.kinds()[g->kind]},
              {"sequence", sequence},
              {"text", s.signature_text(i->signature)},
              {"differ", s.differ(*i)},
              {"base_us", micros(t.first_issue)},
              {"now_us", micros(s.now - t.first_issue)},
              {"texts", texts},
              {"members",
               {{"rank", rank},
                {"issued_us", issued},
                {"started_us", started},
                {"completed_us", completed},
                {"text", text}}}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<uint32_t> Summary::notable_ranks(size_t count) const {
  const Impl& s = *impl_;
  std::vector<uint32_t> picked;
  std::set<uint32_t> seen;
  const auto pick = [&](uint32_t rank) {
    if (picked.size() < count && rank < s.ranks.size() && seen.insert(rank).second) {
      picked.push_back(rank);
    }
  };
  for (const Verdict& v : s.told) {
    for (size_t i = 0; i < std::min<size_t>(v.culprit.ranks.size(), 16); ++i) {
      pick(v.culprit.ranks[i]);
    }
    for (size_t i = 0; i < std::min<size_t>(v.culprit.links.size(), 8); ++i) {
      pick(v.culprit.links[i].first);
      pick(v.culprit.links[i].second);
    }
    for (size_t i = 0; i < std::min<size_t>(v.evidence.size(), 16); ++i) pick(v.evidence[i].rank);
  }
  std::vector<std::pair<float, uint32_t>> late;
  for (uint32_t rank = 0; rank < s.ranks.size(); ++rank) {
    late.emplace_back(-s.ranks[rank].steps.mean_late(), rank);
  }
  std::ranges::sort(late);
  for (size_t i = 0; i < std::min(late.size(), count / 4); ++i) pick(late[i].second);
  const size_t stride = std::max<size_t>(1, s.ranks.size() / std::max<size_t>(1, count));
  for (size_t rank = 0; rank < s.ranks.size(); rank += stride) pick(static_cast<uint32_t>(rank));
  for (size_t rank = 0; rank < s.ranks.size(); ++rank) pick(static_cast<uint32_t>(rank));
  std::ranges::sort(picked);
  return picked;
}

std::vector<uint32_t> Summary::notable_groups(size_t count) const {
  const Impl& s = *impl_;
  std::vector<uint32_t> picked;
  std::set<uint32_t> seen;
  const auto pick = [&](uint32_t id) {
    if (picked.size() < count && s.collectives.find(id) != nullptr && seen.insert(id).second) {
      picked.push_back(id);
    }
  };
  for (const Verdict& v : s.told) {
    for (const uint32_t id : v.culprit.groups) pick(id);
    for (const Evidence& e : v.evidence) {
      if (e.sequence != 0) pick(e.group);
    }
  }
  const std::vector<uint32_t> order = order_of(s.collectives, all_waiting(s.collectives));
  // Some of each kind, so that none is missing.
  std::map<uint8_t, size_t> of_kind;
  for (const uint32_t id : order) {
    if (of_kind[s.collectives.all()[id].kind]++ < count / kKinds) pick(id);
  }
  for (const uint32_t id : order) pick(id);
  return picked;
}

std::vector<std::pair<uint32_t, uint32_t>> Summary::notable_instances(size_t count) const {
  const Impl& s = *impl_;
  std::vector<std::pair<uint32_t, uint32_t>> picked;
  std::set<std::pair<uint32_t, uint32_t>> seen;
  const auto pick = [&](uint32_t group, uint32_t sequence) {
    const Group* const g = s.collectives.find(group);
    if (picked.size() == count || g == nullptr || g->ring.empty() || sequence == 0 ||
        g->ring[sequence % g->ring.size()].sequence != sequence) {
      return;
    }
    if (seen.insert({group, sequence}).second) picked.emplace_back(group, sequence);
  };
  for (const Verdict& v : s.told) {
    for (const Evidence& e : v.evidence) pick(e.group, e.sequence);
  }
  const std::vector<uint32_t> groups = notable_groups(64);
  for (const uint32_t id : groups) pick(id, waiting_in(s.collectives.all()[id]).sequence);
  for (const uint32_t id : groups) {
    const Group& g = s.collectives.all()[id];
    const Instance* worst = nullptr;
    for (const Instance& i : g.ring) {
      if (i.sequence != 0 && (worst == nullptr || timing_of(i).skew() > timing_of(*worst).skew())) {
        worst = &i;
      }
    }
    if (worst != nullptr) pick(id, worst->sequence);
    if (g.latest > 0) pick(id, g.latest);
  }
  return picked;
}

}  // namespace convoy::trace
