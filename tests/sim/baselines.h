#pragma once

#include <convoy/trace/event.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

// What simpler tools would say of the same events.
namespace convoy::sim {

enum Baseline : uint8_t {
  kFlightRecorder,      // compares signatures and sequences when a collective times out
  kLaunchedCounts,      // NCCL's RAS: who has launched fewer collectives
  kLongestDuration,     // whose collectives take longest
  kLeastCommunication,  // whose take the shortest time on the device
  kBaselines,
};
inline constexpr std::array kBaselineNames{"flight recorder", "launched counts", "longest duration",
                                           "least communication"};

class Baselines : public trace::Sink {
 public:
  explicit Baselines(const trace::Registry& registry) : registry_(registry) {}
  void job(const trace::JobInfo& job) override;
  void batch(const trace::Batch& batch) override;
  void clock(const trace::ClockSample& sample) override;

  // The ranks that it blames; empty: nobody.
  std::vector<uint32_t> blame(Baseline baseline, bool hung) const;

 private:
  struct Rank {
    std::string host;
    double duration = 0, communication = 0;
    uint64_t operations = 0;
    trace::RankState state;
  };
  struct Call {
    uint32_t signature = 0;
    std::map<uint32_t, std::vector<uint32_t>> ranks;  // by signature; only once they disagree
    uint32_t count = 0;
    std::vector<uint32_t> first;  // who made the call before anyone disagreed
  };
  void add_call(uint32_t rank, const trace::Operation& operation);
  std::vector<uint32_t> disagreeing() const;
  std::vector<uint32_t> missing() const;
  std::vector<uint32_t> behind() const;
  std::vector<uint32_t> outlier(double Rank::*what, bool most) const;

  const trace::Registry& registry_;
  std::vector<Rank> ranks_;
  std::map<std::string, int64_t> offsets_;  // root - host, as the first sample has it
  std::unordered_map<uint64_t, Call> calls_;
};

}  // namespace convoy::sim
