#pragma once

#include <arrow/result.h>
#include <arrow/util/thread_pool.h>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

namespace convoy::ckpt {

// Arrow queues the parts of an upload at its executor without a bound, each with a copy of its
// bytes. This one makes whoever submits wait while `most` tasks are queued or at work.
class BoundedExecutor final : public arrow::internal::Executor {
 public:
  static arrow::Result<std::shared_ptr<BoundedExecutor>> make(int threads, int most) {
    ARROW_ASSIGN_OR_RAISE(auto pool, arrow::internal::ThreadPool::MakeEternal(threads));
    return std::shared_ptr<BoundedExecutor>(new BoundedExecutor(std::move(pool), most));
  }
  // Waits until no task is left, at most `timeout`. A task has ends that run after its result is
  // known, and must not meet the end of the process.
  void wait_idle(std::chrono::milliseconds timeout) {
    for (auto left = timeout; pool_->GetNumTasks() > 0 && left.count() > 0; --left) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  int GetCapacity() override { return pool_->GetCapacity(); }
  bool OwnsThisThread() override { return pool_->OwnsThisThread(); }

 protected:
  arrow::Status SpawnReal(arrow::internal::TaskHints hints, arrow::internal::FnOnce<void()> task,
                          arrow::StopToken stop, StopCallback&& on_stop) override {
    const auto room = room_;  // outlives the executor with the last task
    {
      std::unique_lock lock(room->mutex);
      // A task that submits another must not wait for itself.
      if (!OwnsThisThread()) room->freed.wait(lock, [&] { return room->tasks < room->most; });
      ++room->tasks;
    }
    const auto leave = [room] {
      const std::lock_guard lock(room->mutex);
      --room->tasks;
      room->freed.notify_one();
    };
    const arrow::Status spawned = pool_->Spawn(
        hints,
        [leave, task = std::move(task)]() mutable {
          std::move(task)();
          leave();
        },
        std::move(stop), std::move(on_stop));
    if (!spawned.ok()) leave();
    return spawned;
  }

 private:
  BoundedExecutor(std::shared_ptr<arrow::internal::ThreadPool> pool, int most)
      : pool_(std::move(pool)) {
    room_->most = most;
  }
  struct Room {
    std::mutex mutex;
    std::condition_variable freed;
    int tasks = 0;  // guarded by mutex
    int most = 1;
  };
  const std::shared_ptr<arrow::internal::ThreadPool> pool_;
  const std::shared_ptr<Room> room_ = std::make_shared<Room>();
};

}  // namespace convoy::ckpt
