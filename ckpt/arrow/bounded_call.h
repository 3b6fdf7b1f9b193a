#pragma once

#include <convoy/base/clock.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace convoy::ckpt {

// Calls that were given up and have not come back, in this process, at most.
inline constexpr int kCallsLostMax = 64;

// How many calls were given up and still run.
inline std::atomic<int>& calls_lost() {
  static std::atomic<int> count = 0;
  return count;
}

// Runs `work`, which may never come back, on a thread of its own, and waits for it. Nothing if the
// time is over: then `work` goes on alone, with all that it owns, and `late` gets its result.
template <class T>
std::optional<T> bounded_call(Nanos timeout, std::function<T()> work,
                              std::function<void(T)> late = {}) {
  struct State {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<T> result;  // guarded by mutex, as what follows
    bool given_up = false;
  };
  if (calls_lost() >= kCallsLostMax) return std::nullopt;
  const auto state = std::make_shared<State>();  // of both threads, whichever ends last
  std::thread([state, work = std::move(work), late = std::move(late)]() mutable {
    T result = work();
    work = nullptr;
    {
      const std::lock_guard lock(state->mutex);
      if (!state->given_up) {
        state->result = std::move(result);
        state->done.notify_one();
        return;
      }
    }
    if (late) late(std::move(result));
    --calls_lost();
  }).detach();
  std::unique_lock lock(state->mutex);
  state->done.wait_for(lock, timeout, [&] { return state->result.has_value(); });
  if (state->result) return std::move(state->result);
  state->given_up = true;
  ++calls_lost();
  return std::nullopt;
}

}  // namespace convoy::ckpt
