#pragma once

#include "src/standin/nccl/profiler.h"
#include "src/standin/nccl/segment.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <cuda_runtime_api.h>
#include <map>
#include <memory>
#include <mutex>
#include <nccl.h>
#include <string>
#include <thread>
#include <vector>

// One rank's side of a communicator.
namespace convoy::standin::nccl {

class Communicator;

// Why a communicator's kernels and calls give up. Shared with children that share resources
// (splitShare, shrinkShare), as NCCL's abort flag is.
enum class Stop : int { no, revoked, aborted };
struct StopFlag {
  std::atomic<Stop> value{Stop::no};
};

struct Config {
  bool blocking = true;
  bool split_share = false, shrink_share = false;
  std::string name;
  // False and `why`: not one that ncclConfig_t's initializer made.
  static bool read(const ncclConfig_t* from, const Config& inherited, Config& to, std::string& why);
};

// The operator of ncclRedOpCreatePreMulSum.
struct PreMulSum {
  uint32_t dtype = 0;
  uint64_t bits = 0;                    // the factor, or
  const void* device_scalar = nullptr;  // where it lies when the kernel runs
};

// How long something waited for its peers before it says so, and before the process ends.
struct Patience {
  std::chrono::steady_clock::duration notice, end;
  static const Patience& get();  // CONVOY_STANDIN_NOTICE_S, CONVOY_STANDIN_DEADLINE_S
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(int device, Config config, std::shared_ptr<StopFlag> stop,
               std::shared_ptr<StopFlag> parent_stop);
  ~Communicator();

  // Takes the rank's slot in the id's segment and blocks until all ranks have come.
  ncclResult_t join(const UniqueId& id, int rank, int nranks);
  // Blocks until what has been launched is done and the node's other ranks finalize too.
  ncclResult_t finalize();
  // Stops kernels and calls, and blocks until the ones under way have noticed.
  void stop(Stop how);
  void tell(Stop how);  // the same, but does not wait
  // Its handle goes. `aborted`: whatever is under way is given up, also of those that share its
  // resources; else it has been finalized, and they go on.
  void end(bool aborted);

  int rank() const { return rank_; }
  int nranks() const { return nranks_; }
  int device() const { return device_; }
  const Config& config() const { return config_; }
  const std::shared_ptr<StopFlag>& stop_flag() const { return stop_; }
  Stop stopped() const {
    return destroyed_ ? Stop::aborted : stop_->value.load(std::memory_order_acquire);
  }
  std::string name() const;  // for messages: "communicator 'pp' (1a2b), rank 1 of 4"
  uint64_t id() const;
  std::string status();                              // a line for Faults
  Profiler& profiler() const { return *profiler_; }  // valid once joined
  int node_of(int rank) const;  // counted in the order of their first ranks; valid once joined
  int nodes() const;
  Segment& segment() { return *segment_; }
  RankSlot& slot(int rank) { return segment_->ranks[rank]; }
  // What is at `address` in the rank's own process, as a device address here, and where the
  // stand-in reads and writes it.
  void* device_address(int rank, uint64_t address) const;
  void* alias(int rank, uint64_t address) const {
    return standin_alias(device_address(rank, address));
  }

  // --- Asynchronous state, as ncclCommGetAsyncError tells it.
  ncclResult_t async_error();
  void set_async_error(ncclResult_t error) { async_ = error; }
  // Runs the job here when the communicator is blocking, else on a thread, and ncclInProgress until
  // then.
  ncclResult_t perform(std::function<ncclResult_t()> job);
  // ncclInvalidArgument while an earlier call is in progress, the error after one.
  ncclResult_t ready();
  void
  begin_progress();  // a non-blocking call returned ncclInProgress and is done by the next query

  // --- Waiting for peers, anywhere. False when the communicator was stopped meanwhile: calls on
  // the host give up at an abort only, kernels at a revocation too.
  using Condition = std::function<bool()>;
  using Text = std::function<std::string()>;
  bool wait(std::atomic<uint32_t>& word, const Condition& done, Stop gives_up_at, const Text& what,
            const Text& who);
  bool meet(Barrier& barrier, int members, Stop gives_up_at, const Text& what, const Text& who);
  // A kernel that nothing but a stop ends; returns then, or when the time is over.
  void hang(std::chrono::nanoseconds limit = std::chrono::nanoseconds::max());
  // All ranks on the host; `who` comes from the slots' counters.
  bool meet_on_host(const char* what);
  void ring(int rank);  // wakes a rank that waits on its bell
  // For messages: who isn't in a collective, and what a rank does (" (is in AllReduce of ...)").
  std::string missing_of_collective();
  std::string state_of(int rank);

  // --- Operations.
  std::mutex launching;        // one launch at a time
  cudaEvent_t last = nullptr;  // after the last launch; guarded by `launching`
  cudaStream_t last_stream = nullptr;
  std::atomic<uint64_t> operations{0};  // counted under `launching`
  // A group has messages in these directions (kToPeer, kFromPeer); under `launching`. NCCL connects
  // what is not yet connected, and finds out here that the peer connects something else.
  void connect(int peer, uint32_t directions);
  // Of kernels that run; stop() waits for them.
  bool enter_kernel();
  void leave_kernel();

  // --- Created operators, by their number.
  ncclRedOp_t add_operator(PreMulSum op);
  bool drop_operator(ncclRedOp_t op);
  bool find_operator(ncclRedOp_t op, PreMulSum& found);

  // --- Calls on the host, which the caller makes one after the other.
  std::map<int, uint32_t> offers_taken;  // by leader
  UniqueId grow_id;                      // pid 0: none is out
  bool suspended = false;
  std::array<uint64_t, kRanksMax> signals_used{};  // one-sided, by source; on the stream

 private:
  bool wait_and_tell(std::atomic<uint32_t>& word, const Condition& done, Stop gives_up_at,
                     const std::function<void(double seconds)>& tell);
  ncclResult_t claim_slot();
  ncclResult_t open_to_others();
  bool is_last_of_process();
  void ring();  // whoever waits for anything in this communicator looks again
  void wait_until_quiet(bool for_good);
  ncclResult_t check_devices();
  bool open_peers_memory(int rank);
  void tell_never_met(const std::string& what, const std::string& who, double seconds);
  bool has_lost_remote_peer();
  bool is_orphan() const;  // its parent was stopped, and that doesn't reach it
  class Teller;

  int rank_ = 0, nranks_ = 0;  // once joined
  const int device_;
  const Config config_;
  const std::shared_ptr<StopFlag> stop_, parent_stop_;
  std::shared_ptr<Segment> segment_;
  std::atomic<Segment*> shown_{nullptr};  // the same, for other threads while it is joining
  std::atomic<bool> joined_{false};
  std::atomic<bool> destroyed_{false};  // of this one only: who shares its stop flag goes on
  std::unique_ptr<Profiler> profiler_;  // made under mutex_, and only if nobody has aborted
  int status_ = -1;                     // of Faults; the same
  std::vector<char*> bases_;            // by rank: where its device begins here
  std::atomic<int> async_{ncclSuccess};
  std::atomic<bool> owed_{false};  // one ncclInProgress to the next query
  std::atomic<bool> finalized_{false};
  struct Connection {
    uint32_t directions = 0;
    size_t calls = 0;  // that connected something
  };
  std::array<Connection, kRanksMax> connections_{};  // by peer
  std::thread job_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int kernels_ = 0;
  std::map<int, PreMulSum> operators_;
  int next_operator_ = ncclNumOps;
};

// Remembers the text for ncclGetLastError, prints it when NCCL_DEBUG asks, and returns the result.
ncclResult_t fail(ncclResult_t result, const std::string& text);
std::string last_error();
// NCCL_HOSTID, or this machine.
uint64_t host_hash();

}  // namespace convoy::standin::nccl
