#pragma once

#include <convoy/sim/cluster.h>

#include <map>
#include <vector>

// Keeps all that a simulated cluster tells.
namespace convoy::sim {

struct Recording : trace::Sink {
  void job(const trace::JobInfo& job) override { jobs.push_back(job); }
  void batch(const trace::Batch& batch) override { batches.push_back(batch); }
  void clock(const trace::ClockSample& sample) override { samples.push_back(sample); }

  std::vector<trace::JobInfo> jobs;
  std::vector<trace::Batch> batches;
  std::vector<trace::ClockSample> samples;
};

}  // namespace convoy::sim
