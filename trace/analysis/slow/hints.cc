#include "trace/analysis/slow/hints.h"

#include "trace/analysis/slow/replay.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace convoy::trace::slow {
namespace {

constexpr float kGainMin = 0.02F;
constexpr float kFarBelow = 0.4F;  // of the bandwidth that others of the same kind reach
constexpr float kManyCalls = 4;    // a step

void add(std::vector<Hint>& hints, const char* name, float gain, float confidence,
         std::string summary, std::string evidence) {
  if (gain < kGainMin) return;
  Hint h;
  h.name = name;
  h.gain = std::min(gain, 1.0F);
  h.confidence = confidence;
  h.summary = std::move(summary) + text(": would save %.1f %% of the step time", 100 * h.gain);
  h.evidence.emplace_back().text = std::move(evidence);
  hints.push_back(std::move(h));
}

void uneven_work(const View& view, const std::vector<float>& work, std::vector<Hint>& hints) {
  const StepModel before = make_model(view, work);
  const float now = replay(before);
  if (now <= 0) return;
  const float share = std::min(1.0F, now / view.step_ns);
  std::vector<float> some, even = work;
  float most = 1;
  for (const auto& cohort : view.roles.cohorts()) {
    some.clear();
    for (const uint32_t r : cohort) some.push_back(work[r]);
    const float usual = median(some);
    for (const uint32_t r : cohort) {
      if (usual > 0) most = std::max(most, work[r] / usual);
      even[r] = std::min(work[r], usual);
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
           before.stages, before.micro_batches, 100 * (p - 1) / (m + p - 1)));
}

void lost_overlap(const View& view, const std::vector<float>& work, std::vector<Hint>& hints) {
  StepModel model = make_model(view, work);
  const float now = replay(model), exposed = model.reduction;
  // It can hide behind the last backward only.
  float last = 0;
  for (const float b : model.backward) last = std::max(last, b);
  model.reduction = std::max(0.0F, exposed - last);
  add(hints, "lost overlap", (now - replay(model)) / std::max(view.step_ns, now), 0.7F,
      "reduce gradients while the last backward still runs",
      text("%.1f ms a step of the reduction are not hidden", exposed * 1e-6));
}

// Sizes that reach far less than what others of the same kind do.
void slow_sizes(const View& view, std::vector<Hint>& hints) {
  struct Size {
    float count = 0, time = 0, samples = 0;
  };
  std::map<std::tuple<std::string, uint32_t, bool>, std::map<uint64_t, Size>> kinds;
  for (const Flow& flow : view.flows.flows()) {
    const FlowStep* step = flow.steps.find(view.newest());
    if (flow.is_message || step == nullptr || step->count == 0) continue;
    const Signature& s = view.registry.signatures()[flow.signature];
    const auto& ranks = view.registry.groups()[flow.group].ranks;
    const bool within = std::all_of(ranks.begin(), ranks.end(),
                                    [&](uint32_t r) { return view.same_host(r, ranks[0]); });
    Size& size = kinds[{s.operation, static_cast<uint32_t>(ranks.size()), within}][s.bytes];
    size.count += step->count, size.time += step->mean(), size.samples += 1;
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
  uneven_work(view, work, hints);
  lost_overlap(view, work, hints);
  slow_sizes(view, hints);
  std::stable_sort(hints.begin(), hints.end(),
                   [](const Hint& a, const Hint& b) { return a.gain > b.gain; });
  return hints;
}

}  // namespace convoy::trace::slow
