#pragma once

#include <torch/csrc/distributed/c10d/Hooks.hpp>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

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
  bool wants_completion();
  void fire_completion(uint64_t key, std::optional<float> duration_ms);

 private:
  std::mutex mutex_;
  std::map<int64_t, c10d::AbortHook> abort_;
  std::map<int64_t, c10d::CompletionHook> completion_;
};

}  // namespace convoy::comm
