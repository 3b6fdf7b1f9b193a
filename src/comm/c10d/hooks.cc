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

// The hooks are replaced, not changed, so that firing them copies a pointer only.
void HookTable::change_completion(const std::function<void(CompletionHooks&)>& change) {
  std::lock_guard lock(mutex_);
  auto changed = std::make_shared<CompletionHooks>(*completion_);
  change(*changed);
  wants_completion_ = !changed->empty();
  completion_ = std::move(changed);
}

void HookTable::add_completion(int64_t id, c10d::CompletionHook hook) {
  change_completion([&](CompletionHooks& hooks) { hooks[id] = std::move(hook); });
}

void HookTable::remove_completion(int64_t id) {
  change_completion([&](CompletionHooks& hooks) { hooks.erase(id); });
}

void HookTable::observe(std::shared_ptr<Observer> observer) {
  std::lock_guard lock(mutex_);
  observer_.store(observer.get(), std::memory_order_release);
  if (observer) observers_.push_back(std::move(observer));
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

void HookTable::fire_completion(uint64_t key, std::optional<float> duration_ms) {
  if (!wants_completion()) return;
  std::unique_lock lock(mutex_);
  const std::shared_ptr<const CompletionHooks> hooks = completion_;
  lock.unlock();
  for (const auto& [id, hook] : *hooks) hook({key, duration_ms});
}

}  // namespace convoy::comm
