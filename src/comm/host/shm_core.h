#pragma once

#include "src/comm/host/futex.h"
#include "src/comm/host/node_impl.h"
#include "src/comm/host/shm_area.h"
#include <convoy/comm/host/group.h>

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace convoy::host {

// Decides how long waits spin before they sleep, from how it went lately. Thread-safe: what races
// lose is a little of the memory.
class Spinner {
 public:
  Spinner(bool own_cores, int most);
  // Spins until done() or the budget is used up; returns whether it is done.
  template <class Done>
  bool spin(const Done& done) {
    const int most = budget();
    for (int i = 0; i < most; ++i) {
      if (done()) {
        learn(true, i);
        return true;
      }
      cpu_relax();
    }
    learn(false, most);
    return false;
  }

 private:
  int budget();
  void learn(bool paid, int turns);

  const bool own_cores_;
  const int most_;
  std::atomic<int> budget_;
  std::atomic<uint32_t> turns_{0};
};

// One rank's end of a local group: the area, the peers' heaps, waiting and failing. ShmGroup and
// its transfers share it, because a transfer may outlive the group.
class ShmCore final : public PeerListener {
 public:
  ShmCore(std::shared_ptr<NodeImpl> node, std::vector<std::shared_ptr<Peer>> peers, Area* area,
          int rank, const GroupOptions& options);
  ~ShmCore() override;

  int rank() const { return rank_; }
  int size() const { return size_; }
  Area& area() { return *area_; }
  Heap& heap() { return node_->own_heap(); }
  const GroupOptions& options() const { return options_; }
  RankState& self() { return area_->rank(rank_); }
  // Address of `offset` in rank r's heap; checks that [offset, offset + bytes) lies in it.
  char* at(int r, uint64_t offset, size_t bytes) const;
  // "0,2" in the job's numbering.
  std::string names_of(const std::vector<int>& ranks) const;
  // "; rank 1 waits for rank 2; rank 2 (pid 77) is stopped": what is behind the delay of `ranks`,
  // as far as this group shows it; else "".
  std::string behind(const std::vector<int>& ranks) const;
  // This rank's shared heap can't hold `bytes` more, which are for `what`.
  Status no_memory(size_t bytes, const std::string& what) const;
  int global_rank(int r) const {
    return options_.global_ranks.empty() ? r : options_.global_ranks[r];
  }

  // Records the first cause of failure for all ranks and wakes them. Returns that first cause.
  Status fail(const Status& cause);
  bool failed() const { return area_->failure.load(std::memory_order_acquire) != Area::kFine; }
  Status error() const;
  bool is_gone(int r) const { return peers_[r]->gone.load(std::memory_order_acquire); }
  bool has_left(int r) const { return area_->rank(r).left.load(std::memory_order_acquire) != 0; }
  pid_t pid_of(int r) const { return peers_[r]->pid; }

  // What run() does now, for waiting and for messages: "all_reduce #17".
  struct Operation {
    OpKind kind = OpKind::kBarrier;
    size_t count = 1;          // collectives in it
    uint64_t sequence = 0;     // 0: the group's creation
    uint32_t first_phase = 0;  // of its arrival
    Deadline deadline = Deadline::never();
    TimePoint started{};
    bool warned = false;
    std::string name() const;
  };
  // From here to end() a peer's obituary names the operation.
  void begin(const Operation& op);
  void end() { current_.store(0, std::memory_order_release); }
  // Arrives at the next barrier and waits for all. The error names who is missing.
  Status barrier(Operation& op);
  uint32_t phase() const { return phase_; }
  // After a failure: waits until no live rank can touch this one's memory any more.
  void drain(uint32_t first_phase);

  // Sleeps while `word` is `seen`, for a short time at most (failures don't change the word).
  static void sleep_on(const std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
                       uint32_t seen, Nanos at_most);
  Spinner& message_spinner() { return messages_spinner_; }
  // A message that lies in a block of our heap until the receiver takes it.
  struct Message {
    int to;
    uint32_t entry;
    char* bounce;
  };
  void adopt_message(const Message& message);
  void reap_messages();

  void leave();
  void peer_gone(const Peer& peer) override;
  void process_exits() override { leave(); }
  void wake_everybody();

 private:
  Status wait_for_phase(Operation& op);
  Status check_peers(const Operation& op);
  std::string missing_text(const Operation& op, const std::string& since) const;
  std::vector<int> late_ranks() const;
  void leave_messages();

  const std::shared_ptr<NodeImpl> node_;
  const std::vector<std::shared_ptr<Peer>> peers_;
  Area* const area_;
  const int rank_;
  const int size_;
  const GroupOptions options_;
  Spinner arrival_, midway_, messages_spinner_;
  uint32_t phase_ = 0;                // barriers this rank arrived at
  std::atomic<uint64_t> current_{0};  // sequence << 8 | kind + 1, 0: idle
  std::mutex messages_mutex_;
  std::vector<Message> messages_;
};

}  // namespace convoy::host
