// One rank, and the links between all.
#include "trace/summary/impl.h"
#include <convoy/trace/summary.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace convoy::trace {

using Json = nlohmann::ordered_json;

namespace {

constexpr size_t kRanksByLink = 128;  // above, links are summed up by host
constexpr size_t kLinksShown = 40000;

// What is known of a directed pair, told by either side.
struct Pair {
  double sent = 0;       // bytes a second
  double send_wait = 0;  // of the time, 0 … 1, for each of `links`
  double receive_wait = 0, peer_wait = 0;
  double retransmits = 0;  // a second
  uint64_t round_trip = 0;
  double busy_bytes = 0, busy_s = 0;  // while something was on its way
  uint32_t links = 0;
};

double a_second(const Rolled& figure, double seconds) {
  return static_cast<double>(figure.recent()) / seconds;
}

void add_link(std::map<std::pair<uint32_t, uint32_t>, Pair>& pairs, uint32_t here, uint32_t there,
              const Link& link, double seconds) {
  if (link[LinkFigure::kSent].known) {
    Pair& out = pairs[{here, there}];
    ++out.links;
    out.sent += a_second(link[LinkFigure::kSent], seconds);
    const double wait = a_second(link[LinkFigure::kSendWait], seconds) * 1e-9;
    out.send_wait += wait;
    out.peer_wait += a_second(link[LinkFigure::kPeerWait], seconds) * 1e-9;
    out.retransmits += a_second(link[LinkFigure::kRetransmits], seconds);
    out.round_trip = std::max(out.round_trip, link.round_trip);
    out.busy_bytes += a_second(link[LinkFigure::kSent], seconds);
    out.busy_s += wait;
  }
  if (link[LinkFigure::kReceiveWait].known) {
    pairs[{there, here}].receive_wait += a_second(link[LinkFigure::kReceiveWait], seconds) * 1e-9;
  }
  if (link[LinkFigure::kMessageBytes].known && !link[LinkFigure::kReceived].known) {
    Pair& in = pairs[{there, here}];
    ++in.links;
    in.sent += a_second(link[LinkFigure::kMessageBytes], seconds);
    const double time = a_second(link[LinkFigure::kMessageTime], seconds) * 1e-9;
    if (time > 0) in.busy_bytes += a_second(link[LinkFigure::kMessageBytes], seconds);
    in.busy_s += time;
  }
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>((values.size() - 1) / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

// Seconds on the wire for each byte, against the median of links of the same sort. 0: not known, or
// carries so little that the latency is all that one would see.
std::vector<double> normalised(const std::vector<std::pair<const Pair*, bool>>& pairs) {
  constexpr double kShareMin = 0.05;  // of the bytes of the median link
  double bytes_min[2], median[2];
  const auto cost = [](const Pair& p) { return p.busy_s / p.busy_bytes; };
  for (const bool local : {false, true}) {
    std::vector<double> bytes, costs;
    for (const auto& [pair, is_local] : pairs) {
      if (is_local == local && pair->busy_s > 0) bytes.push_back(pair->busy_bytes);
    }
    bytes_min[local] = std::max(1.0, median_of(bytes) * kShareMin);
    for (const auto& [pair, is_local] : pairs) {
      if (is_local == local && pair->busy_bytes >= bytes_min[local]) costs.push_back(cost(*pair));
    }
    median[local] = median_of(costs);
  }
  std::vector<double> out;
  for (const auto& [pair, local] : pairs) {
    const bool known = median[local] > 0 && pair->busy_bytes >= bytes_min[local];
    out.push_back(known ? cost(*pair) / median[local] : 0);
  }
  return out;
}

double rounded(double value, double digits) {
  return std::round(value * digits) / digits;
}

Json link_json(const Link& link, double seconds) {
  const auto share = [&](LinkFigure f) { return rounded(a_second(link[f], seconds) * 1e-9, 1e4); };
  return {{"peer", link.peer},
          {"sent_per_s", static_cast<int64_t>(a_second(link[LinkFigure::kSent], seconds))},
          {"received_per_s", static_cast<int64_t>(a_second(link[LinkFigure::kReceived], seconds))},
          {"send_wait", share(LinkFigure::kSendWait)},
          {"peer_wait", share(LinkFigure::kPeerWait)},
          {"receive_wait", share(LinkFigure::kReceiveWait)},
          {"source_wait", share(LinkFigure::kSourceWait)},
          {"drain_wait", share(LinkFigure::kDrainWait)},
          {"retransmits_per_s", rounded(a_second(link[LinkFigure::kRetransmits], seconds), 1e3)},
          {"round_trip_us", micros(static_cast<int64_t>(link.round_trip))}};
}

Json steps_json(const RankSteps& steps, size_t parts) {
  Json window = {{"step", Json::array()},
                 {"begin_us", Json::array()},
                 {"total_us", Json::array()},
                 {"late_us", Json::array()},
                 {"parts_us", Json::array()}};
  for (const RankStep& step : steps.window()) {
    window["step"].push_back(step.step);
    window["begin_us"].push_back(micros(step.begin));
    window["total_us"].push_back(static_cast<int64_t>(step.total));
    window["late_us"].push_back(static_cast<int64_t>(step.late));
    Json row = Json::array();
    for (size_t i = 0; i < parts; ++i) row.push_back(static_cast<int64_t>(step.parts[i]));
    window["parts_us"].push_back(row);
  }
  Json past = {{"stride", steps.stride()}, {"step", Json::array()}, {"mean_us", Json::array()}};
  for (const RankSteps::Past& p : steps.past()) {
    past["step"].push_back(p.step);
    past["mean_us"].push_back(static_cast<int64_t>(p.mean));
  }
  return {{"window", window}, {"past", past}};
}

Json process_json(const Counters& counters, double seconds) {
  const auto of = [&](ProcessFigure f) { return a_second(counters[f], seconds); };
  return {{"run_queue", rounded(of(ProcessFigure::kRunQueue) * 1e-9, 1e4)},
          {"processor", rounded(of(ProcessFigure::kProcessor) * 1e-9, 1e4)},
          {"disk_wait", rounded(of(ProcessFigure::kDiskWait) * 1e-9, 1e4)},
          {"page_faults_per_s", rounded(of(ProcessFigure::kPageFaults), 1e2)},
          {"tokens_per_s", static_cast<int64_t>(of(ProcessFigure::kTokens))}};
}

}  // namespace

Result<std::string> Summary::rank(uint32_t rank) const {
  const Impl& s = *impl_;
  if (rank >= s.ranks.size()) {
    return Status(Code::kNotFound, "there is no rank " + std::to_string(rank));
  }
  const RankSummary& r = s.ranks[rank];
  const uint32_t host = s.clocks.host_of(rank);
  const double seconds = std::max(r.counters.recent_s(), 1e-3);
  Json pending = Json::array();
  for (const Operation& o : r.pending) {
    const Impl::SignatureMeaning& meaning = s.signatures[o.signature];
    pending.push_back({{"group", meaning.signature.group},
                       {"group_name", s.group_name(meaning.signature.group)},
                       {"sequence", o.sequence},
                       {"text", meaning.text},
                       {"peer", meaning.signature.peer},
                       {"issued_us", micros(o.issued)},
                       {"started_us", micros(o.started)}});
  }
  Json links = Json::array();
  for (const Link& link : r.counters.links()) links.push_back(link_json(link, seconds));
  Json groups = Json::array();
  for (uint32_t id = 0; id < s.collectives.all().size() && groups.size() < kListMax; ++id) {
    const Group* const group = s.collectives.find(id);
    if (group == nullptr || group->index_of(rank) < 0) continue;
    groups.push_back({{"id", id}, {"name", group->info.name}, {"size", group->info.ranks.size()}});
  }
  Json out = {{"rank", rank},
              {"host", host == ClockModel::kNone ? "" : s.clocks.hosts()[host]},
              {"pid", r.pid},
              {"life", s.life_of(r)},
              {"exit_code", r.exit_code},
              {"last_us", micros(r.last)},
              {"doing", r.doing},
              {"lost", r.lost},
              {"shed", r.shed},
              {"batches_missing", r.missing},
              {"operations", r.operations},
              {"parts", s.part_names()},
              {"pending", pending},
              {"process", process_json(r.counters, seconds)},
              {"links", links},
              {"groups", groups}};
  out.update(steps_json(r.steps, s.part_names().size()));
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Summary::links() const {
  const Impl& s = *impl_;
  const bool by_host = s.ranks.size() > kRanksByLink && s.clocks.hosts().size() > 1;
  std::map<std::pair<uint32_t, uint32_t>, Pair> pairs;
  for (uint32_t rank = 0; rank < s.ranks.size(); ++rank) {
    const Counters& counters = s.ranks[rank].counters;
    const double seconds = std::max(counters.recent_s(), 1e-3);
    for (const Link& link : counters.links()) {
      const uint32_t here = by_host ? s.clocks.host_of(rank) : rank;
      const uint32_t there = by_host ? s.clocks.host_of(link.peer) : link.peer;
      if (here == ClockModel::kNone || there == ClockModel::kNone) continue;
      add_link(pairs, here, there, link, seconds);
    }
  }
  std::vector<std::pair<const Pair*, bool>> sorts;
  for (const auto& [ends, pair] : pairs) {
    const bool local = by_host ? ends.first == ends.second
                               : s.clocks.host_of(ends.first) == s.clocks.host_of(ends.second);
    sorts.emplace_back(&pair, local);
  }
  const std::vector<double> norm = normalised(sorts);
  Json columns;
  for (const char* name : {"from", "to", "bytes_per_s", "send_wait", "receive_wait", "peer_wait",
                           "busy_bytes_per_s", "norm", "retransmits_per_s", "round_trip_us"}) {
    columns[name] = Json::array();
  }
  size_t at = 0;
  for (const auto& [ends, p] : pairs) {
    const size_t i = at++;
    if (i >= kLinksShown) break;
    const double each = std::max(1U, p.links);
    columns["from"].push_back(ends.first);
    columns["to"].push_back(ends.second);
    columns["bytes_per_s"].push_back(static_cast<int64_t>(p.sent));
    columns["send_wait"].push_back(rounded(p.send_wait / each, 1e4));
    columns["receive_wait"].push_back(rounded(p.receive_wait / each, 1e4));
    columns["peer_wait"].push_back(rounded(p.peer_wait / each, 1e4));
    columns["busy_bytes_per_s"].push_back(
        p.busy_s > 0 ? static_cast<int64_t>(p.busy_bytes / p.busy_s) : 0);
    columns["norm"].push_back(rounded(norm[i], 1e3));
    columns["retransmits_per_s"].push_back(rounded(p.retransmits, 1e3));
    columns["round_trip_us"].push_back(micros(static_cast<int64_t>(p.round_trip)));
  }
  Json names = Json::array();
  if (by_host) {
    for (const std::string& name : s.clocks.hosts()) names.push_back(name);
  }
  return Json{{"by", by_host ? "host" : "rank"},
              {"ends", by_host ? s.clocks.hosts().size() : s.ranks.size()},
              {"names", names},
              {"all", pairs.size()},
              {"links", columns}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace convoy::trace
