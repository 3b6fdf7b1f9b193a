#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

// Two runs side by side: is one faster, and where. Pure.
namespace convoy::trace {

enum class Aspect : uint8_t {
  kStep,       // all of a step
  kPhase,      // a span's own time within a step, that of spans within it taken off
  kOperation,  // one operation: from its start (its issue where that is not known) to its end
};
const char* name_of(Aspect aspect);

// What is compared: the mean over ranks (of operations: over all of them) in each step.
struct Quantity {
  Aspect aspect = Aspect::kStep;
  std::string role;  // "pp 1": ranks with that coordinate; empty: all ranks; of operations the kind
                     // of group: "dp"
  std::string name;  // of the span, of the operation
  uint64_t bytes = 0;  // of an operation
  auto operator<=>(const Quantity&) const = default;
};

// What a run spends its steps with. Steps with a warm-up in them are left out. Memory: by
// quantities and steps, not by ranks. Not thread-safe.
class RunProfile : public Sink {
 public:
  // Only these steps; both ends count.
  RunProfile(const Registry& registry, std::optional<std::pair<uint64_t, uint64_t>> steps);
  void job(const JobInfo& job) override { job_ = job; }
  void batch(const Batch& batch) override;
  void clock(const ClockSample& /*sample*/) override {}

  // Seconds for each step, in order.
  std::map<Quantity, std::vector<double>> samples() const;
  uint64_t steps() const;
  uint32_t ranks() const { return static_cast<uint32_t>(ranks_.size()); }
  const JobInfo& job() const { return job_; }

 private:
  struct Sum {
    double seconds = 0;
    uint64_t count = 0;
  };
  struct Window {
    uint64_t step = 0;
    int64_t begin = 0, end = 0;
    bool counts = false;
  };
  struct Rank {
    std::vector<SpanEvent> spans;       // whose step has not ended
    std::vector<Operation> operations;  // the same
    std::vector<Window> windows;        // of the newest steps
    std::vector<std::string> roles;
  };
  // Aspect, role, name or operation, bytes.
  using Key = std::tuple<Aspect, std::string, std::string, uint64_t>;

  void add(const Key& key, uint64_t step, double seconds, uint64_t count);
  void end_step(Rank& rank, const SpanEvent& step);
  void add_phases(const Rank& rank, const SpanEvent& step, const std::vector<SpanEvent>& within);
  void place_operations(Rank& rank);
  std::vector<std::string> roles_of(uint32_t rank) const;

  const Registry& registry_;
  const std::optional<std::pair<uint64_t, uint64_t>> only_;
  JobInfo job_;
  std::map<uint32_t, Rank> ranks_;
  std::map<Key, std::map<uint64_t, Sum>> sums_;
  std::map<uint64_t, bool> warm_;  // steps with a warm-up
};

struct Difference {
  Quantity quantity;
  uint64_t steps_a = 0, steps_b = 0;
  double median_a = 0, median_b = 0;  // seconds
  // (b − a) / a, and where it lies with a confidence of 95 %.
  double change = 0, low = 0, high = 0;
  double p = 1;  // that chance alone does this, corrected for the number of comparisons
  bool beyond_noise = false;
};

struct CompareOptions {
  double min_change = 0.01;  // smaller ones are of no interest
  double level = 0.01;       // largest p that counts
  uint64_t steps_min = 8;    // of each run; with fewer nothing is beyond noise
};

// Quantities that both have; differences beyond noise first, the largest in seconds before others.
// The steps of a run resemble their neighbours: that makes the noise larger than it looks, and is
// taken into account. What differs from run to run of one program (placement, other jobs) is not
// seen in two runs.
std::vector<Difference> compare(const RunProfile& a, const RunProfile& b,
                                const CompareOptions& options = {});

}  // namespace convoy::trace
