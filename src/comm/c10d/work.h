#pragma once

#include "src/comm/c10d/hooks.h"
#include "src/comm/c10d/lane.h"
#include "src/comm/c10d/operation.h"
#include <convoy/comm/host/group.h>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace convoy::comm {

// What every Work of one group refers to.
struct GroupContext {
  std::shared_ptr<host::Group> group;
  std::string name;  // for messages
  std::shared_ptr<Lane> lane;
  std::shared_ptr<HookTable> hooks;
};

// The collectives of one Work on their way through the lane. Outlives its Work when that is
// dropped.
class CollectiveStep final : public Step {
 public:
  CollectiveStep(GroupContext context, Operation operation, std::chrono::milliseconds timeout);
  void perform() override;
  void settle() override;

  // Complete once settled, with the results or the error. Made on first use.
  c10::intrusive_ptr<c10::ivalue::Future> future();
  // Valid once the lane says that the step is done.
  const Status& status() const { return status_; }
  const Operation& operation() const { return operation_; }
  const GroupContext& context() const { return context_; }
  std::chrono::milliseconds timeout() const { return timeout_; }
  uint64_t key() const { return key_; }
  void at_end(std::function<void()> callback) { at_end_ = std::move(callback); }

 private:
  void settle_future();

  GroupContext context_;
  Operation operation_;
  std::chrono::milliseconds timeout_;
  uint64_t key_;
  Status status_;
  std::optional<float> duration_ms_;
  std::function<void()> at_end_;  // ends the profiler's range
  std::mutex mutex_;              // guards what follows
  bool settled_ = false;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// A collective as c10d's callers see it. wait() performs the lane up to it on the calling thread
// unless the worker was faster.
class CollectiveWork final : public c10d::Work {
 public:
  CollectiveWork(int rank, std::shared_ptr<CollectiveStep> step, uint64_t sequence);

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  std::vector<at::Tensor> result() override { return step_->operation().results(); }
  void synchronize() override { wait(); }
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return step_->future(); }
  uint64_t getSequencenumber() const override { return sequence_; }
  std::chrono::milliseconds getTimeout() const override { return step_->timeout(); }
  uint64_t getCompletionKey() const override { return step_->key(); }

 private:
  Lane& lane() const { return *step_->context().lane; }

  std::shared_ptr<CollectiveStep> step_;
  uint64_t sequence_;
};

// Messages on their way; no thread is involved: wait() and isCompleted() make the progress. A
// tensor that is not plain memory is received into a stand-in and copied when one of them sees the
// end.
class TransferWork final : public c10d::Work {
 public:
  struct Message {
    std::shared_ptr<host::Transfer> transfer;
    at::Tensor tensor;    // the user's
    at::Tensor stand_in;  // contiguous memory in its place, or undefined
    bool receives = false;
  };
  TransferWork(int rank, c10d::OpType type, GroupContext context, std::vector<Message> messages,
               std::chrono::milliseconds timeout);
  ~TransferWork() override;

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  std::vector<at::Tensor> result() override { return results_; }
  void synchronize() override { wait(); }
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void abort() override;
  std::chrono::milliseconds getTimeout() const override { return timeout_; }
  uint64_t getCompletionKey() const override { return key_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  // Ends the work; needs the lock.
  void conclude(Status status);

  GroupContext context_;
  std::vector<Message> messages_;
  std::vector<at::Tensor> results_;
  std::chrono::milliseconds timeout_;
  Deadline deadline_;
  uint64_t key_;
  mutable std::mutex waiting_;  // held while blocked in a transfer
  std::atomic<bool> concluded_ = false;
  Status status_;  // written before concluded_
  int source_ = -1;
};

// Several works as one: of a batch that mixes messages and collectives.
class BatchWork final : public c10d::Work {
 public:
  BatchWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> parts);
  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  void synchronize() override { wait(); }
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> parts_;
};

}  // namespace convoy::comm
