#include "trace/export/labels.h"
#include <convoy/trace/compare.h>

#include <algorithm>
#include <set>

namespace convoy::trace {
namespace {

constexpr uint32_t kRoleSizeMax = 64;    // dimensions with more coordinates are no roles
constexpr size_t kWindowsKept = 4;       // steps whose operations may still come
constexpr size_t kPendingMax = 1 << 16;  // of a rank, where no step ends

double seconds(int64_t ns) {
  return static_cast<double>(ns) * 1e-9;
}

}  // namespace

const char* name_of(Aspect aspect) {
  switch (aspect) {
    case Aspect::kStep:
      return "step";
    case Aspect::kPhase:
      return "phase";
    case Aspect::kOperation:
      return "operation";
  }
  return "?";
}

RunProfile::RunProfile(const Registry& registry, std::optional<std::pair<uint64_t, uint64_t>> steps)
    : registry_(registry), only_(steps) {}

std::vector<std::string> RunProfile::roles_of(uint32_t rank) const {
  std::vector<std::string> out{""};
  uint64_t before = 1;
  for (const Dimension& d : job_.mesh) {
    const uint64_t size = std::max<uint32_t>(1, d.size);
    if (size > 1 && size <= kRoleSizeMax) {
      out.push_back(d.name + " " + std::to_string(rank / before % size));
    }
    before *= size;
  }
  return out;
}

void RunProfile::batch(const Batch& batch) {
  const auto [at, is_new] = ranks_.try_emplace(batch.rank);
  Rank& rank = at->second;
  if (is_new) rank.roles = roles_of(batch.rank);
  const auto step = registry_.find_name(names::kStep);
  rank.operations.insert(rank.operations.end(), batch.operations.begin(), batch.operations.end());
  for (const SpanEvent& s : batch.spans) {
    if (s.name == step) {
      end_step(rank, s);
    } else if (s.end > s.begin) {
      rank.spans.push_back(s);
    }
  }
  place_operations(rank);
  if (rank.spans.size() > kPendingMax) rank.spans.clear();
  if (rank.operations.size() > kPendingMax) rank.operations.clear();
}

void RunProfile::add(const Key& key, uint64_t step, double seconds, uint64_t count) {
  Sum& sum = sums_[key][step];
  sum.seconds += seconds;
  sum.count += count;
}

void RunProfile::end_step(Rank& rank, const SpanEvent& step) {
  std::vector<SpanEvent> within;
  const auto warm = registry_.find_name(names::kWarmUp);
  for (const SpanEvent& s : rank.spans) {
    if (s.end <= step.begin || s.begin >= step.end) continue;
    if (s.name == warm) warm_[step.value] = true;
    if (s.begin >= step.begin && s.end <= step.end) within.push_back(s);
  }
  std::erase_if(rank.spans, [&](const SpanEvent& s) { return s.begin < step.end; });
  const bool counts = step.end > step.begin &&
                      (!only_ || (only_->first <= step.value && step.value <= only_->second));
  rank.windows.push_back({step.value, step.begin, step.end, counts});
  if (rank.windows.size() > kWindowsKept) rank.windows.erase(rank.windows.begin());
  if (!counts) return;
  for (const std::string& role : rank.roles) {
    add({Aspect::kStep, role, names::kStep, 0}, step.value, seconds(step.end - step.begin), 1);
  }
  add_phases(rank, step, within);
}

void RunProfile::add_phases(const Rank& rank, const SpanEvent& step,
                            const std::vector<SpanEvent>& within) {
  std::vector<SpanEvent> spans = within;
  std::ranges::sort(spans, [](const SpanEvent& a, const SpanEvent& b) {
    return std::tuple(a.thread, a.begin, -a.end) < std::tuple(b.thread, b.begin, -b.end);
  });
  std::map<uint32_t, int64_t> own;  // ns by name
  std::vector<const SpanEvent*> open;
  for (const SpanEvent& s : spans) {
    while (!open.empty() && (open.back()->thread != s.thread || open.back()->end <= s.begin)) {
      open.pop_back();
    }
    own[s.name] += s.end - s.begin;
    if (!open.empty()) own[open.back()->name] -= std::min(s.end, open.back()->end) - s.begin;
    open.push_back(&s);
  }
  for (const auto& [name, ns] : own) {
    for (const std::string& role : rank.roles) {
      add({Aspect::kPhase, role, registry_.names()[name], 0}, step.value, seconds(ns), 1);
    }
  }
}

// Gives operations to the step that they begin in; those after the newest step wait for the next.
void RunProfile::place_operations(Rank& rank) {
  if (rank.windows.empty()) return;
  const int64_t newest = rank.windows.back().end;
  for (const Operation& o : rank.operations) {
    const int64_t begin = o.started != 0 ? o.started : o.issued;
    if (begin == 0 || begin >= newest || o.completed < begin) continue;
    const auto window = std::ranges::find_if(
        rank.windows, [&](const Window& w) { return w.begin <= begin && begin < w.end; });
    if (window == rank.windows.end() || !window->counts) continue;
    const Signature& s = registry_.signatures()[o.signature];
    const std::string kind = group_kind(registry_.groups()[s.group].name);
    add({Aspect::kOperation, kind, s.operation, s.bytes}, window->step,
        seconds(o.completed - begin), 1);
  }
  std::erase_if(rank.operations, [&](const Operation& o) {
    return (o.started != 0 ? o.started : o.issued) < newest;
  });
}

uint64_t RunProfile::steps() const {
  std::set<uint64_t> all;
  for (const auto& [key, by_step] : sums_) {
    if (std::get<0>(key) != Aspect::kStep) continue;
    for (const auto& [step, sum] : by_step) {
      if (!warm_.contains(step)) all.insert(step);
    }
  }
  return all.size();
}

std::map<Quantity, std::vector<double>> RunProfile::samples() const {
  // A phase that not every rank of a role has in each step counts as 0 there.
  std::map<std::string, const std::map<uint64_t, Sum>*> steps_of;
  for (const auto& [key, by_step] : sums_) {
    if (std::get<0>(key) == Aspect::kStep) steps_of[std::get<1>(key)] = &by_step;
  }
  std::map<Quantity, std::vector<double>> out;
  for (const auto& [key, by_step] : sums_) {
    const auto& [aspect, role, name, bytes] = key;
    std::vector<double>& values = out[{aspect, role, name, bytes}];
    if (aspect == Aspect::kPhase) {
      for (const auto& [step, all] : *steps_of[role]) {
        if (warm_.contains(step)) continue;
        const auto at = by_step.find(step);
        values.push_back(at == by_step.end() ? 0
                                             : at->second.seconds / static_cast<double>(all.count));
      }
      continue;
    }
    for (const auto& [step, sum] : by_step) {
      if (!warm_.contains(step)) values.push_back(sum.seconds / static_cast<double>(sum.count));
    }
  }
  return out;
}

}  // namespace convoy::trace
