#include "trace/analysis/slow/flows.h"

#include <algorithm>

namespace convoy::trace::slow {
namespace {

constexpr size_t kFlowsMax = 200'000;

bool sends(const Signature& s) {
  return s.operation == "send";
}

uint64_t pair_key(uint32_t sender, uint32_t receiver) {
  return uint64_t{1} << 63 | uint64_t{sender} << 31 | receiver;
}

}  // namespace

Flows::Line& Flows::line_of(uint32_t rank, const Signature& signature) {
  if (!signature.is_message()) return lines_[signature.group];
  const auto peer = static_cast<uint32_t>(signature.peer);
  // Messages of two groups between the same ranks are counted apart.
  const uint64_t key = sends(signature) ? pair_key(rank, peer) : pair_key(peer, rank);
  return lines_[key ^ uint64_t{signature.group} * 0x9E3779B97F4A7C15U >> 1];
}

uint32_t Flows::flow_of(uint32_t rank, uint32_t number) {
  const Signature& s = registry_.signatures()[number];
  uint64_t key = number;
  Flow flow{.group = s.group, .signature = number, .is_message = s.is_message(), .steps = {}};
  if (s.is_message()) {
    const auto peer = static_cast<uint32_t>(s.peer);
    flow.sender = sends(s) ? rank : peer;
    flow.receiver = sends(s) ? peer : rank;
    key = (pair_key(flow.sender, flow.receiver) + s.bytes) * 0x9E3779B97F4A7C15U | uint64_t{1}
                                                                                       << 63;
  }
  const auto [at, is_new] = flow_at_.emplace(key, static_cast<uint32_t>(flows_.size()));
  if (is_new && flows_.size() >= kFlowsMax) {  // sizes that never come back: begin again
    flows_.clear();
    flow_at_.clear();
    flow_at_.emplace(key, 0);
    flows_.push_back(std::move(flow));
    return 0;
  }
  if (is_new) flows_.push_back(std::move(flow));
  return at->second;
}

void Flows::complete(const Join& join, Flow& flow, uint32_t parts, Window& window) {
  FlowStep& step = flow.steps.at(join.step, window_);
  step.network += join.shortest;
  step.skew += join.longest - join.shortest;
  if (step.count < UINT16_MAX) ++step.count;
  if (flow.is_message) return;
  RankStep& cell = window.slot(join.last, join.step);
  if (cell.step == join.step) {
    cell.inflicted += join.sum / static_cast<float>(parts) - join.shortest;
  }
}

void Flows::add(uint32_t rank, const Operation& operation, uint32_t step, float stay,
                Window& window) {
  const Signature& s = registry_.signatures()[operation.signature];
  if (s.uneven) return;  // sizes change from time to time: nothing to compare with
  const uint32_t parts =
      s.is_message() ? 2 : static_cast<uint32_t>(registry_.groups()[s.group].ranks.size());
  if (parts < 2) return;
  Line& line = line_of(rank, s);
  const uint32_t sequence = operation.sequence;
  if (line.joins.empty()) line.first = sequence;
  if (sequence < line.first) {
    if (line.first - sequence > kOpenMax / 2) return;
    for (; line.first > sequence; --line.first) line.joins.emplace_front();
  }
  if (sequence - line.first > kOpenMax) line.joins.clear(), line.first = sequence;
  while (line.joins.size() <= sequence - line.first) line.joins.emplace_back();
  Join& join = line.joins[sequence - line.first];
  if (join.parts == UINT32_MAX) return;
  if (stay < join.shortest) join.shortest = stay, join.last = rank;
  join.longest = std::max(join.longest, stay);
  join.sum += stay;
  join.step = std::max(join.step, step);
  if (++join.parts == parts) {
    complete(join, flows_[flow_of(rank, operation.signature)], parts, window);
    join.parts = UINT32_MAX;
  }
  while (!line.joins.empty() && line.joins.front().parts == UINT32_MAX) {
    line.joins.pop_front();
    ++line.first;
  }
}

void Flows::forget(uint32_t step) {
  for (auto& [key, line] : lines_) {
    const auto is_old = [&](const Join& j) { return j.parts == UINT32_MAX || j.step < step; };
    while (!line.joins.empty() && is_old(line.joins.front())) {
      line.joins.pop_front();
      ++line.first;
    }
  }
}

void Flows::clear() {
  flows_.clear();
  flow_at_.clear();
  lines_.clear();
}

}  // namespace convoy::trace::slow
