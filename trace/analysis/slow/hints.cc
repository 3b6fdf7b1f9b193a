#include "trace/analysis/slow/hints.h"

#include "trace/analysis/slow/replay.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

namespace convoy::trace::slow {
namespace {

constexpr float kGainMin = 0.02F;
constexpr float kFarBelow = 0.4F;            // of the bandwidth that others of the same kind reach
constexpr float kSigmas = 3, kEven = 0.02F;  // who differs by less is not slow
constexpr size_t kRecent = 8;                // steps
constexpr float kManyCalls = 4;              // a step

void add(std::vector<Hint>& hints, const char* name, float gain, float confidence,
         std::string summary, std::string evidence, uint32_t setting = 0) {
  if (gain < kGainMin) return;
  Hint h;
  h.name = name;
  h.gain = std::min(gain, 1.0F);
  h.confidence = confidence;
  h.setting = setting;
  h.summary = std::move(summary) + text(": would save %.1f %% of the step time", 100 * h.gain);
  h.evidence.emplace_back().text = std::move(evidence);
  hints.push_back(std::move(h));
}

// `before`: the model of `work`.
void uneven_work(const View& view, const std::vector<float>& work, const StepModel& before,
                 std::vector<Hint>& hints) {
  const float now = replay(before);
  if (now <= 0) return;
  const float share = std::min(1.0F, now / view.step_ns);
  std::vector<float> some, even = work;
  float most = 1;
  for (const auto& cohort : view.roles.cohorts()) {
    some.clear();
    for (const uint32_t r : cohort) some.push_back(work[r]);
    const float usual = median(some);
    // Jitter stays.
    const float normal = usual + std::max(kSigmas * spread(some, usual), kEven * usual);
    for (const uint32_t r : cohort) {
      if (usual > 0) most = std::max(most, work[r] / usual);
      if (work[r] > normal) even[r] = usual;
    }
  }
  add(hints, "imbalance", share * (now - replay(make_model(view, even))) / now, 0.8F,
      "make the slowest ranks as fast as the median of their peers",
      text("the slowest rank computes %.2f times as long as its peers", most));
  if (before.stages < 2) return;
  StepModel levelled = before;
  float longest = 0, sum = 0;
  for (uint32_t d = 0; d < before.replicas; ++d) {
    float* forward = &levelled.forward[size_t{d} * before.stages];
    float* backward = &levelled.backward[size_t{d} * before.stages];
    float f = 0, b = 0;
    for (uint32_t s = 0; s < before.stages; ++s) {
      f += forward[s], b += backward[s];
      longest = std::max(longest, forward[s] + backward[s]), sum += forward[s] + backward[s];
    }
    std::fill_n(forward, before.stages, f / static_cast<float>(before.stages));
    std::fill_n(backward, before.stages, b / static_cast<float>(before.stages));
  }
  const float mean = sum / static_cast<float>(before.stages * before.replicas);
  add(hints, "stage imbalance", share * (now - replay(levelled)) / now, 0.7F,
      "deal the layers out so that all stages take equally long",
      text("the longest stage takes %.2f times as long as the mean",
           longest / std::max(mean, 1.0F)));
  StepModel finer = before;
  finer.micro_batches *= 2;
  for (float& f : finer.forward) f /= 2;
  for (float& b : finer.backward) b /= 2;
  const float p = static_cast<float>(before.stages), m = static_cast<float>(before.micro_batches);
  add(hints, "pipeline bubble", share * (now - replay(finer)) / now, 0.6F,
      text("twice as many micro-batches (%u), half as large, or an interleaved schedule",
           finer.micro_batches),
      text("with %u stages and %u micro-batches %.0f %% of the pipeline's time is idle at best",
           before.stages, before.micro_batches, 100 * (p - 1) / (m + p - 1)),
      finer.micro_batches);
}

// A flow over the newest steps, of which not all may be known of.
struct Usual {
  float calls = 0, time = 0;  // in a step; of a call
};

Usual usual_of(const View& view, const Flow& flow) {
  float steps = 0, calls = 0, network = 0;
  const size_t first = view.steps.size() - std::min(kRecent, view.steps.size());
  for (size_t i = first; i < view.steps.size(); ++i) {
    const FlowStep* step = flow.steps.find(view.steps[i]);
    if (step == nullptr || step->count == 0) continue;
    ++steps, calls += static_cast<float>(step->count), network += step->network;
  }
  return calls == 0 ? Usual{} : Usual{calls / steps, network / calls};
}

// What collectives of a group cost: each of their ring's rounds, and each byte that goes by.
struct Ring {
  float round_ns = 0, byte_ns = 0;
};

struct Shape {
  float rounds = 0, bytes = 0;  // of one call, on each link of the ring
};

Shape shape_of(const Signature& s, size_t ranks) {
  const auto n = static_cast<float>(ranks), bytes = static_cast<float>(s.bytes);
  if (s.operation == "all_gather") return {n - 1, bytes * (n - 1)};
  if (s.operation == "reduce_scatter") return {n - 1, bytes * (n - 1) / n};
  if (s.operation == "all_reduce") return {2 * (n - 1), 2 * bytes * (n - 1) / n};
  return {};
}

// From the smallest and the largest calls of groups of one size.
Ring ring_of(const View& view, size_t ranks) {
  struct Point {
    Shape shape;
    float calls = 0, time = 0;
    float mean() const { return time / calls; }
  };
  std::map<float, Point> points;  // by bytes
  for (const Flow& flow : view.flows.flows()) {
    if (flow.is_message || view.registry.groups()[flow.group].ranks.size() != ranks) continue;
    const Shape shape = shape_of(view.registry.signatures()[flow.signature], ranks);
    const Usual usual = usual_of(view, flow);
    if (shape.rounds == 0 || usual.calls == 0) continue;
    Point& point = points[shape.bytes];
    point.shape = shape;
    point.calls += usual.calls, point.time += usual.calls * usual.time;
  }
  if (points.empty()) return {};
  const Point &small = points.begin()->second, &large = points.rbegin()->second;
  Ring ring;
  if (small.shape.bytes * 16 < large.shape.bytes) {
    const float det =
        small.shape.rounds * large.shape.bytes - large.shape.rounds * small.shape.bytes;
    ring.round_ns = (small.mean() * large.shape.bytes - large.mean() * small.shape.bytes) / det;
    ring.round_ns = std::clamp(ring.round_ns, 0.0F, small.mean() / small.shape.rounds);
  }
  ring.byte_ns = std::max(0.0F, large.mean() - large.shape.rounds * ring.round_ns) /
                 std::max(1.0F, large.shape.bytes);
  return ring;
}

// The reduction of gradients that `calls` share, handed over while the last backward runs.
struct Reduction {
  Shape all;     // of all calls together; rounds: of one
  float behind;  // ns: how long that backward takes

  // How much longer than the backward it takes.
  float exposed(uint32_t calls, const Ring& ring) const {
    const auto n = static_cast<float>(calls);
    const float one = all.rounds * ring.round_ns + all.bytes / n * ring.byte_ns;
    // Either the last call alone is late, or they are in each other's way.
    return std::max(one, n * one - behind * (n - 1) / n);
  }
};

// In how many calls the gradients are best reduced.
void reduction_calls(const View& view, const StepModel& model, std::vector<Hint>& hints) {
  float last = 0;
  for (const float b : model.backward) last = std::max(last, b);
  const Flow* reduction = nullptr;  // the calls that most time goes to
  Usual usual;
  for (const Flow& flow : view.flows.flows()) {
    if (flow.is_message) continue;
    const auto& ranks = view.registry.groups()[flow.group].ranks;
    const std::string& operation = view.registry.signatures()[flow.signature].operation;
    const bool reduces = operation == "all_reduce" || operation == "reduce_scatter";
    if (!reduces || view.roles.replica(ranks.front()) == view.roles.replica(ranks.back())) continue;
    const Usual of_flow = usual_of(view, flow);
    if (of_flow.calls * of_flow.time <= usual.calls * usual.time) continue;
    reduction = &flow, usual = of_flow;
  }
  if (reduction == nullptr || model.reduction <= 0) return;
  const Signature& s = view.registry.signatures()[reduction->signature];
  const size_t size = view.registry.groups()[reduction->group].ranks.size();
  const auto calls = static_cast<uint32_t>(std::lround(usual.calls));
  Shape all = shape_of(s, size);
  all.bytes *= static_cast<float>(calls);
  const Reduction model_of{all, last};
  const Ring ring = ring_of(view, size);
  uint32_t best = calls;
  for (uint32_t n = 1; n <= 1024; n *= 2) {
    if (model_of.exposed(n, ring) < 0.98F * model_of.exposed(best, ring)) best = n;
  }
  const float now = std::min(model.reduction, model_of.exposed(calls, ring));
  const float saved = std::max(0.0F, now - model_of.exposed(best, ring));
  const double mb = static_cast<double>(s.bytes) * calls / best * 1e-6;
  add(hints, best > calls ? "lost overlap" : "small buckets",
      saved / std::max(view.step_ns, replay(model)), 0.7F,
      text("reduce gradients in %u calls a step of %.1f MB instead of %u", best, mb, calls),
      text("%.1f ms a step of the reduction are not hidden behind the backward",
           model.reduction * 1e-6),
      best);
}

// Sizes that reach far less than what others of the same kind do.
void slow_sizes(const View& view, std::vector<Hint>& hints) {
  struct Size {
    float count = 0, time = 0, samples = 0;
  };
  std::map<std::tuple<std::string, uint32_t, bool>, std::map<uint64_t, Size>> kinds;
  for (const Flow& flow : view.flows.flows()) {
    const Usual usual = usual_of(view, flow);
    if (flow.is_message || usual.calls == 0) continue;
    const Signature& s = view.registry.signatures()[flow.signature];
    const auto& ranks = view.registry.groups()[flow.group].ranks;
    const bool within = std::all_of(ranks.begin(), ranks.end(),
                                    [&](uint32_t r) { return view.same_host(r, ranks[0]); });
    Size& size = kinds[{s.operation, static_cast<uint32_t>(ranks.size()), within}][s.bytes];
    size.count += usual.calls, size.time += usual.time, size.samples += 1;
  }
  for (const auto& [kind, sizes] : kinds) {
    float best = 0, latency = 1e18F;
    uint64_t best_bytes = 0;
    for (const auto& [bytes, size] : sizes) {
      const float time = size.time / size.samples;
      latency = std::min(latency, time);
      if (static_cast<float>(bytes) / time > best)
        best = static_cast<float>(bytes) / time, best_bytes = bytes;
    }
    for (const auto& [bytes, size] : sizes) {
      const float time = size.time / size.samples, count = size.count / size.samples;
      const float bandwidth = static_cast<float>(bytes) / time;
      if (bytes == 0 || bandwidth > kFarBelow * best) continue;
      const bool small = bytes < best_bytes;
      if (small && count < kManyCalls) continue;
      // One call with all of it, at what the best size reaches.
      const float saved = count * time - (latency + count * static_cast<float>(bytes) / best);
      const auto& name = std::get<0>(kind);
      add(hints, small ? "small buckets" : "algorithm", saved / view.step_ns, small ? 0.6F : 0.5F,
          small ? text("gather the %.0f calls a step of %s with %.2f MB into larger ones", count,
                       name.c_str(), static_cast<double>(bytes) * 1e-6)
                : text("another algorithm or protocol for %s of %.2f MB", name.c_str(),
                       static_cast<double>(bytes) * 1e-6),
          text("%.2f GB/s, where %.2f MB reach %.2f GB/s", bandwidth,
               static_cast<double>(best_bytes) * 1e-6, best));
    }
  }
}

}  // namespace

std::vector<Hint> make_hints(const View& view) {
  std::vector<Hint> hints;
  const std::vector<float> work = work_of(view);
  const StepModel model = make_model(view, work);
  uneven_work(view, work, model, hints);
  reduction_calls(view, model, hints);
  slow_sizes(view, hints);
  std::stable_sort(hints.begin(), hints.end(),
                   [](const Hint& a, const Hint& b) { return a.gain > b.gain; });
  return hints;
}

}  // namespace convoy::trace::slow
