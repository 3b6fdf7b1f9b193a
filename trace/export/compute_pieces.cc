#include "trace/export/compute_pieces.h"

#include <algorithm>

namespace convoy::trace {

ComputePieces::Role ComputePieces::role(uint32_t name) {
  if (name >= roles_.size()) roles_.resize(name + 1, Role::kUnseen);
  Role& role = roles_[name];
  if (role != Role::kUnseen) return role;
  const std::string& text = registry_.names()[name];
  role = text == names::kKernel       ? Role::kKernel
         : text == names::kAwaitStage ? Role::kAwait
         : text == names::kForward || text == names::kBackward || text == names::kOptimizer
             ? Role::kWork
             : Role::kOther;
  return role;
}

const std::vector<std::pair<int64_t, int64_t>>& ComputePieces::of(const SpanEvent& span) {
  pieces_.clear();
  const Role r = role(span.name);
  if (r == Role::kKernel) {
    kernels_ = true;
    pieces_.emplace_back(span.begin, span.end);
  }
  if (kernels_ || r == Role::kOther || r == Role::kKernel) return pieces_;
  auto& awaited = awaited_[span.thread];
  if (r == Role::kAwait) {
    awaited.emplace_back(span.begin, span.end);
    return pieces_;
  }
  std::ranges::sort(awaited);
  int64_t at = span.begin;
  for (const auto& [begin, end] : awaited) {
    if (end <= span.begin || begin >= span.end) continue;
    if (begin > at) pieces_.emplace_back(at, begin);
    at = std::max(at, end);
  }
  if (at < span.end) pieces_.emplace_back(at, span.end);
  std::erase_if(awaited, [&](const auto& one) { return one.second <= span.end; });
  return pieces_;
}

}  // namespace convoy::trace
