#pragma once

#include "trace/nccl_profiler/communicator.h"
#include "trace/nccl_profiler/links.h"

#include <array>
#include <map>
#include <span>
#include <vector>

namespace convoy::trace::nccl {

// Turns the sums of all communicators into counters in the trace. One thread at a time.
class Publisher {
 public:
  Publisher(Links& links, std::span<Communicator> communicators, const Losses& losses)
      : links_(links), communicators_(communicators), losses_(losses) {}

  void intern_names();
  // Records every counter that has changed since it was last recorded.
  void publish(const TickRate& rate);
  // Before a communicator's links are released: their sums are kept, since counters only grow.
  void keep_sums(uint8_t communicator);

 private:
  // The other end as records tell it: a rank of the job, or a number in a group.
  struct Peer {
    uint16_t group = 0;  // 0: of the job
    uint32_t number = 0;
    bool is_send = false;
    auto operator<=>(const Peer&) const = default;
  };
  // Sums, since the beginning; times are ticks.
  struct Sums {
    uint64_t bytes = 0, steps = 0;
    std::array<uint64_t, kWaits> waits{};
    std::vector<uint32_t> step_times;  // buckets of Sketch
    void add(const Link& link);
  };
  struct Published {
    Sums kept;  // of communicators that have ended
    std::array<uint64_t, 4> values{};
    uint64_t steps = 0;
    std::vector<uint32_t> step_times;
  };

  Peer peer_of(const Link& link) const;
  void publish_link(const Peer& peer, const Sums& sums, Published& last, const TickRate& rate);
  void publish_step_times(const Peer& peer, const Sums& sums, Published& last,
                          const TickRate& rate);
  void publish_losses();

  Links& links_;
  std::span<Communicator> communicators_;
  const Losses& losses_;
  std::map<Peer, Published> published_;
  std::array<uint64_t, 4> published_losses_{};
  std::array<uint16_t, 4> send_names_{}, receive_names_{}, loss_names_{};
  std::array<uint16_t, 2> send_step_names_{}, receive_step_names_{};
};

}  // namespace convoy::trace::nccl
