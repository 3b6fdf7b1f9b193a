// What a stream holds, from a first reading: which ranks, on which hosts, from when to when, and
// their clocks.
#include <convoy/trace/export.h>

#include <algorithm>
#include <charconv>

namespace convoy::trace {
namespace {

// Far above any job; keeps a damaged number from asking for memory.
constexpr uint32_t kRanksMax = 1 << 20;

bool within(uint64_t value, std::pair<uint64_t, uint64_t> range) {
  return range.first <= value && value <= range.second;
}

Status bad_ranges(std::string_view what, std::string_view text) {
  return {Code::kInvalidArgument, std::string(what) + " '" + std::string(text) +
                                      "' is no list of numbers and ranges such as 0-3,8"};
}

}  // namespace

Result<std::vector<std::pair<uint32_t, uint32_t>>> parse_ranges(std::string_view what,
                                                                std::string_view text) {
  std::vector<std::pair<uint32_t, uint32_t>> out;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    std::pair<uint32_t, uint32_t> range;
    auto read = std::from_chars(at, end, range.first);
    if (read.ec != std::errc()) return bad_ranges(what, text);
    range.second = range.first;
    if (read.ptr != end && *read.ptr == '-') {
      read = std::from_chars(read.ptr + 1, end, range.second);
      if (read.ec != std::errc()) return bad_ranges(what, text);
    }
    if (range.second < range.first) return bad_ranges(what, text);
    out.push_back(range);
    if (read.ptr == end) return out;
    if (*read.ptr != ',') return bad_ranges(what, text);
    at = read.ptr + 1;
  }
}

bool Selection::has_rank(uint32_t rank) const {
  return ranks.empty() ||
         std::ranges::any_of(ranks, [&](const auto& range) { return within(rank, range); });
}

Survey::Survey(const Registry& registry, const Selection& selection)
    : registry_(registry), selection_(selection) {}

void Survey::note(Rank& rank, int64_t first, int64_t last) const {
  if (first > 0) rank.first = std::min(rank.first, first);
  rank.last = std::max({rank.last, first, last});
}

void Survey::batch(const Batch& batch) {
  ++batches_;
  if (batch.rank >= kRanksMax) return;
  if (batch.rank >= ranks_.size()) ranks_.resize(batch.rank + 1);
  Rank& rank = ranks_[batch.rank];
  ++rank.batches;
  if (!batch.host.empty()) {
    rank.host = batch.host;
    clocks_.place(batch.rank, batch.host);
  }
  if (batch.pid != 0) rank.pid = batch.pid;
  rank.operations += batch.operations.size();
  rank.spans += batch.spans.size();
  rank.counters += batch.counters.size();
  for (const Operation& o : batch.operations) {
    note(rank, o.issued != 0 ? o.issued : o.started, o.completed);
  }
  if (!step_) step_ = registry_.find_name(names::kStep);
  for (const SpanEvent& s : batch.spans) {
    note(rank, s.begin, s.end);
    if (s.name != step_) continue;
    ++rank.steps;
    rank.main_thread = s.thread;
    if (!selection_.steps || !within(s.value, *selection_.steps)) continue;
    rank.steps_from = std::min(rank.steps_from, s.begin);
    rank.steps_to = std::max(rank.steps_to, s.end);
  }
  for (const CounterEvent& c : batch.counters) note(rank, c.time, c.time);
  if (batch.state) {
    rank.state = batch.state;
    rank.lost = batch.state->lost;
    rank.shed = batch.state->shed;
    note(rank, batch.state->time, batch.state->time);
    if (batch.received != 0) clocks_.received(batch.rank, batch.state->time, batch.received);
  }
}

std::pair<int64_t, int64_t> Survey::bounds() const {
  std::pair<int64_t, int64_t> out{INT64_MAX, 0};
  for (uint32_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].last == 0) continue;
    out.first = std::min(out.first, clocks_.root_time(r, ranks_[r].first));
    out.second = std::max(out.second, clocks_.root_time(r, ranks_[r].last));
  }
  return out.first > out.second ? std::pair<int64_t, int64_t>{0, 0} : out;
}

std::vector<std::pair<int64_t, int64_t>> Survey::windows() const {
  std::pair<int64_t, int64_t> all{INT64_MIN, INT64_MAX};
  if (selection_.seconds) {
    const auto [begin, end] = bounds();
    const auto rest = static_cast<double>(end - begin);
    all.first = begin + static_cast<int64_t>(std::min(selection_.seconds->first * 1e9, rest));
    all.second = begin + static_cast<int64_t>(std::min(selection_.seconds->second * 1e9, rest));
  }
  std::vector<std::pair<int64_t, int64_t>> out(ranks_.size(), {1, 0});
  for (uint32_t r = 0; r < ranks_.size(); ++r) {
    const Rank& rank = ranks_[r];
    if (rank.batches == 0 || !selection_.has_rank(r)) continue;
    if (selection_.steps && rank.steps_to == 0) continue;
    out[r] = all;
    if (!selection_.steps) continue;
    out[r].first = std::max(all.first, clocks_.root_time(r, rank.steps_from));
    out[r].second = std::min(all.second, clocks_.root_time(r, rank.steps_to));
  }
  return out;
}

std::string Survey::title(uint32_t rank) const {
  std::string out = "rank " + std::to_string(rank);
  uint64_t before = 1;
  std::string role;
  for (const Dimension& d : job_.mesh) {
    if (d.size == 0) continue;
    if (d.size > 1) {
      const std::string one = d.name + " " + std::to_string(rank / before % d.size);
      role = role.empty() ? one : one + " " + role;  // outermost first
    }
    before *= d.size;
  }
  if (!role.empty()) out += " · " + role;
  if (rank < ranks_.size() && !ranks_[rank].host.empty()) out += " · " + ranks_[rank].host;
  if (rank < ranks_.size() && ranks_[rank].pid != 0) {
    out += " · pid " + std::to_string(ranks_[rank].pid);
  }
  return out;
}

}  // namespace convoy::trace
