#pragma once

#include <convoy/base/status.h>
#include <convoy/runtime/metrics.h>
#include <convoy/runtime/trainer.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::runtime {

// What the run leaves behind, on rank 0; on other ranks, or without a run folder, nothing.
class RunFolder {
 public:
  static Result<RunFolder> open(const std::string& path, const std::string& config);

  Status step(int64_t step, const StepResult& result, int64_t tokens, double rate, double seconds);
  Status validation(int64_t step, double loss);
  // The result, from more samples than the points of the curve: no point of it.
  Status result(int64_t step, double loss);
  // Training stood still for a checkpoint.
  Status stalled(int64_t step, double seconds);
  // Goes on after `step`: what the folder has up to there belongs to the curve.
  Status resume(int64_t step, const std::string& mark = "resumed");
  bool has_step(int64_t step) const { return !training_.empty() && training_.back().first >= step; }
  bool has_validation(int64_t step) const {
    return !validation_.empty() && validation_.back().first >= step;
  }
  // `reference`: metrics of another run to draw beside it; empty: none.
  Status finish(const std::string& title, const std::string& reference);

 private:
  using Points = std::vector<std::pair<int64_t, double>>;
  Result<Points> points(const std::string& name, int64_t last) const;
  Status write_validation(const char* name, int64_t step, double loss);

  std::string path_;
  std::optional<MetricsWriter> metrics_;
  Points training_;
  Points validation_;
  std::vector<std::pair<int64_t, std::string>> marks_;
};

}  // namespace convoy::runtime
