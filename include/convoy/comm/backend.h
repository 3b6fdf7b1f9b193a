#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy::host {
class Group;
}

namespace convoy::comm {

class Operation;

// What c10d's hooks don't tell about the operations of a Backend, for those who record them. Called
// from the threads that issue and perform operations: short, no calls back, no GIL.
class Observer {
 public:
  virtual ~Observer() = default;
  // The calling thread has made the Work that completion hooks will call `key`: for the operation
  // that it is about to issue, or for the `messages` or collectives of the batch that it ends.
  virtual void made(uint64_t key, bool messages) = 0;
  // A collective is being performed from now on.
  virtual void started(uint64_t key) = 0;
  // A message that any rank might have sent has come from rank `from` of the group. Completion
  // hooks follow.
  virtual void received(uint64_t key, int from) = 0;
  // Nobody holds the Work of messages any more, and nobody has waited for them: whether they
  // complete will not be known.
  virtual void dropped(uint64_t key) = 0;
};

// The c10d backend `convoy`: collectives and messages of CPU tensors over Convoy's host engine
// (shared memory within a machine, TCP between machines).
//
// Ownership: held by a c10d::ProcessGroup; keeps the process's host::Node alive. Works may outlive
// it. Threads: all calls from any thread; collectives of one group run one at a time, in the order
// of the calls. Blocks: the constructor until all ranks joined; a collective with opts.asyncOp ==
// false until this rank's part is done; an asynchronous one never (its Work::wait() does). Tensors
// are kept alive until then. Ends: shutdown() or the destructor finish what was started; abort()
// fails it, here and on the other ranks. After a failure every call fails with the first cause,
// until reconfigure().
//
// Errors: c10::DistBackendError whose text begins with the kind ("deadline exceeded: …", "mismatch:
// …", "aborted: …") and names group and ranks; c10::ValueError for arguments that can't work.
//
// Reductions: ranks are added in order, so results are bit-identical on all ranks and in every run;
// float16 and bfloat16 sum in float32. Integers, floats, bool and complex reduce; any other dtype
// can be moved. Tensors that are not contiguous are copied; tensors in shared memory (allocator.h)
// are not.
class Backend final : public c10d::Backend {
 public:
  static constexpr const char* kName = "convoy";

  struct Options final : c10d::Backend::Options {
    Options() : c10d::Backend::Options(kName) {}
    c10::intrusive_ptr<c10d::Backend::Options> clone() const override {
      return c10::make_intrusive<Options>(*this);
    }
    // After this long in one operation a warning names the ranks that are missing.
    std::chrono::milliseconds patience{5000};
    // Once true, waiting for others to join ends; null: only at the timeout.
    std::shared_ptr<const std::atomic<bool>> stops = {};
  };

  // Joins the group through `store`, or only prepares to when options->enable_reconfigure is set.
  Backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
          c10::intrusive_ptr<Options> options);
  ~Backend() override;

  const std::string getBackendName() const override { return kName; }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  uint64_t getSequenceNumberForGroup() override;
  // Whether all ranks share this machine's memory.
  bool is_local() const;

  // Collectives.
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(
      std::vector<at::Tensor>& tensors, const c10d::AllreduceCoalescedOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> reduce(std::vector<at::Tensor>& tensors,
                                        const c10d::ReduceOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                           std::vector<at::Tensor>& inputs,
                                           const c10d::AllgatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> allgather_coalesced(std::vector<std::vector<at::Tensor>>& outputs,
                                                     std::vector<at::Tensor>& inputs,
                                                     const c10d::AllgatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> all_gather_single(at::Tensor& output, at::Tensor& input,
                                                   const c10d::AllgatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> all_gather_single_coalesced(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
      const c10d::AllgatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> gather(std::vector<std::vector<at::Tensor>>& outputs,
                                        std::vector<at::Tensor>& inputs,
                                        const c10d::GatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> gather_single(at::Tensor& output, at::Tensor& input,
                                               const c10d::GatherOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> scatter(std::vector<at::Tensor>& outputs,
                                         std::vector<std::vector<at::Tensor>>& inputs,
                                         const c10d::ScatterOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> reduce_scatter(std::vector<at::Tensor>& outputs,
                                                std::vector<std::vector<at::Tensor>>& inputs,
                                                const c10d::ReduceScatterOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> reduce_scatter_single(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> reduce_scatter_single_coalesced(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
      const c10d::ReduceScatterOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> alltoall(std::vector<at::Tensor>& outputs,
                                          std::vector<at::Tensor>& inputs,
                                          const c10d::AllToAllOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> all_to_all_single(at::Tensor& output, at::Tensor& input,
                                                   std::vector<int64_t>& output_splits,
                                                   std::vector<int64_t>& input_splits,
                                                   const c10d::AllToAllOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& opts) override;
  // A barrier whose error names the ranks that did not come; always all of them.
  void monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) override;
  // Refused: sparse tensors are not supported.
  c10::intrusive_ptr<c10d::Work> allreduce_sparse(std::vector<at::Tensor>& tensors,
                                                  const c10d::AllreduceOptions& opts) override;

  // Messages. Progress is made by whoever waits for them; there is no thread and no future.
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override;
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override;
  c10::intrusive_ptr<c10d::Work> recvAnysource(std::vector<at::Tensor>& tensors, int tag) override;

  // What the calling thread starts between the two becomes one operation (collectives) and one
  // Work; the calls in between return no Work.
  bool supportsCoalescing() const override { return true; }
  void startCoalescing() override;
  c10::intrusive_ptr<c10d::Work> endCoalescing() override;

  // Subgroups. `ranks` are this group's; the caller must be among them.
  bool supportsSplitting() const override { return true; }
  c10::intrusive_ptr<c10d::Backend> split(
      const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
      const c10::intrusive_ptr<c10d::Backend::Options>& opts) override;
  c10::intrusive_ptr<c10d::Backend> merge(const c10::intrusive_ptr<c10d::Store>& store,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& opts,
                                          const int& rank, const int& size) override;

  // Failures. abort() may come from any thread. reconfigure() gives this object a new membership in
  // the same process: those whose handles are given join anew, under a uuid that was not used
  // before; it blocks until all joined or the timeout passed. A set of handles is ordered by the
  // ranks that their owners had first. The store must have survived.
  void abort() override;
  void shutdown() override;
  c10d::ErrorType getError() override;
  bool supportsReconfigure() const override { return true; }
  c10d::ReconfigureHandle get_reconfigure_handle() const override;
  c10::intrusive_ptr<c10d::Work> reconfigure(const c10d::ReconfigureOptions& opts) override;
  bool supportsAbortHooks() const override { return true; }
  void registerAbortHook(int64_t id, c10d::AbortHook hook) override;
  void unregisterAbortHook(int64_t id) override;
  bool supportsCompletionHooks() const override { return true; }
  void registerCompletionHook(int64_t id, c10d::CompletionHook hook) override;
  void unregisterCompletionHook(int64_t id) override;
  // Shared with the works. There can be one; null ends it for works that are made from then on.
  void observe(std::shared_ptr<Observer> observer);

  // Memory that collectives need not copy (allocator.h).
  std::shared_ptr<c10::Allocator> getMemAllocator() override;
  at::Tensor allocateTensor(long size, at::TensorOptions options) override;
  bool supportsTensorAlloc(c10::DeviceIndex) override { return true; }

 private:
  struct State;

  c10::intrusive_ptr<c10d::Work> perform(Operation operation, std::chrono::milliseconds timeout,
                                         bool async);
  c10::intrusive_ptr<c10d::Work> message(std::vector<at::Tensor>& tensors, int peer, int tag,
                                         bool receives);
  std::shared_ptr<host::Group> group() const;
  void join(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
            const std::string& name, const std::vector<int>& global_ranks,
            std::chrono::milliseconds timeout);
  std::chrono::milliseconds timeout_or_default(std::chrono::milliseconds timeout) const;
  void check_root(int64_t root, const std::string& name) const;

  std::unique_ptr<State> state_;
};

}  // namespace convoy::comm
