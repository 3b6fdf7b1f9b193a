#pragma once

#include "trace/analysis/slow/flows.h"
#include "trace/analysis/slow/name_kinds.h"

#include <cstdint>
#include <deque>
#include <unordered_map>

// What the senders' counters tell of each directed link.
namespace convoy::trace::slow {

// What counters have grown by since the sample before.
struct LinkSample {
  uint32_t step = 0;   // in which they were read
  uint32_t steps = 1;  // since the sample before: counters may come more seldom than steps
  float bytes = 0, send_wait = 0, peer_wait = 0, retransmits = 0;
};

struct Link {
  uint32_t sender = 0, receiver = 0;
  bool has_round_trip = false;      // a network's, not one inside of a machine
  std::vector<LinkSample> samples;  // the newest, oldest first
};

class Links {
 public:
  explicit Links(uint32_t window) : window_(window) {}
  void add(uint32_t sender, uint32_t receiver, CounterKind kind, int64_t time, uint64_t value);
  // What has come of the sender since the last call belongs to `step`.
  void close(uint32_t sender, uint32_t step);
  void clear() { links_.clear(), states_.clear(), at_.clear(), of_sender_.clear(); }
  const std::deque<Link>& links() const { return links_; }

 private:
  struct Sum {  // of a counter
    uint64_t last = 0, taken = 0;
    int64_t time = 0;
    bool known = false;
  };
  struct State {
    Sum bytes, send_wait, peer_wait, retransmits;
  };
  static constexpr size_t kLinksMax = 400'000;
  static float take(Sum& sum);

  uint32_t window_;
  std::deque<Link> links_;
  std::deque<State> states_;
  std::unordered_map<uint64_t, uint32_t> at_;
  std::unordered_map<uint32_t, std::vector<uint32_t>> of_sender_;
};

}  // namespace convoy::trace::slow
