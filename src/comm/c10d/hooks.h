#pragma once

#include <convoy/comm/backend.h>

#include <torch/csrc/distributed/c10d/Hooks.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace convoy::comm {

// The abort and completion hooks of one Backend, shared with its Works, which may outlive it.
// Thread-safe. Hooks run on the thread that found out, in the order of their ids, outside of the
// lock: they may block, and take the GIL.
class HookTable {
 public:
  void add_abort(int64_t id, c10d::AbortHook hook);
  void remove_abort(int64_t id);
  void add_completion(int64_t id, c10d::CompletionHook hook);
  void remove_completion(int64_t id);

  void fire_abort();
  // Whether a completion hook is registered, so that works are timed only then.
  bool wants_completion() const { return wants_completion_.load(std::memory_order_relaxed); }
  void fire_completion(uint64_t key, std::optional<float> duration_ms);

  void observe(std::shared_ptr<Observer> observer);
  // Null: there is none. Valid as long as this.
  Observer* observer() const { return observer_.load(std::memory_order_acquire); }

 private:
  using CompletionHooks = std::map<int64_t, c10d::CompletionHook>;
  void change_completion(const std::function<void(CompletionHooks&)>& change);

  std::mutex mutex_;  // guards what follows but the atomics
  std::map<int64_t, c10d::AbortHook> abort_;
  std::shared_ptr<const CompletionHooks> completion_ = std::make_shared<CompletionHooks>();
  std::atomic<bool> wants_completion_ = false;
  std::vector<std::shared_ptr<Observer>> observers_;  // past ones too: works may be calling them
  std::atomic<Observer*> observer_ = nullptr;
};

}  // namespace convoy::comm
