// Keeps and fires c10d's abort and completion hooks. When they fire is the Works' and the Backend's
// decision.
#include "src/comm/c10d/hooks.h"

#include <convoy/base/log.h>

#include <exception>
#include <utility>

namespace convoy::comm {

void HookTable::add_abort(int64_t id, c10d::AbortHook hook) {
  std::lock_guard lock(mutex_);
  abort_[id] = std::move(hook);
}

void HookTable::remove_abort(int64_t id) {
  std::lock_guard lock(mutex_);
  abort_.erase(id);
}

void HookTable::add_completion(int64_t id, c10d::CompletionHook hook) {
  std::lock_guard lock(mutex_);
  completion_[id] = std::move(hook);
}

void HookTable::remove_completion(int64_t id) {
  std::lock_guard lock(mutex_);
  completion_.erase(id);
}

void HookTable::fire_abort() {
  std::unique_lock lock(mutex_);
  const auto hooks = abort_;
  lock.unlock();
  for (const auto& [id, hook] : hooks) {
    try {
      hook();
    } catch (const std::exception& e) {
      // The failure that brought us here matters more than the hook's.
      CONVOY_LOG(Error) << "abort hook " << id << " failed: " << e.what();
    }
  }
}

bool HookTable::wants_completion() {
  std::lock_guard lock(mutex_);
  return !completion_.empty();
}

void HookTable::fire_completion(uint64_t key, std::optional<float> duration_ms) {
  std::unique_lock lock(mutex_);
  if (completion_.empty()) return;
  const auto hooks = completion_;
  lock.unlock();
  for (const auto& [id, hook] : hooks) hook({key, duration_ms});
}

}  // namespace convoy::comm
