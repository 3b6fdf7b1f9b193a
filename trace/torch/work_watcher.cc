// One thread for the whole process, which sleeps while nothing is open.
#include "trace/torch/work_watcher.h"

#include <convoy/trace/recorder.h>

#include <c10/core/Event.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <pthread.h>
#include <thread>
#include <utility>

namespace convoy::trace {
namespace {

using Clock = std::chrono::steady_clock;

// An operation's end is seen 2 % of its length late, within these.
constexpr auto kNapMin = std::chrono::microseconds(200), kNapMax = std::chrono::microseconds(5000);

struct Watched {
  std::shared_ptr<GroupTap> tap;
  c10::intrusive_ptr<c10d::Work> work;  // or, without one,
  std::optional<c10::Event> event;
  std::vector<Issued> operations;
  Clock::time_point since;
};

// Leaked: the thread may run until the process's end.
struct Watcher {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Watched> added;  // guarded by mutex, as what follows
  bool started = false;
  bool asleep = false;
  bool ending = false;
};

Watcher& watcher() {
  static auto* const the = new Watcher;
  return *the;
}

// ns that it has run where the backend has timed it.
uint64_t duration_ns(const c10d::Work& work) {
  static std::atomic<bool> can_time{true};
  if (!can_time) return 0;
  try {
    return static_cast<uint64_t>(work.getDuration() * 1e6F);
  } catch (const std::exception&) {
    can_time = false;
    return 0;
  }
}

enum class Look : uint8_t { kOpen, kComplete, kFailed };

Look look_at(const Watched& watched) {
  if (watched.event) return watched.event->query() ? Look::kComplete : Look::kOpen;
  // Nobody else holds it, so nobody will wait for it: what the program has let go of counts as
  // done.
  const bool forgotten = watched.work.use_count() == 1;
  if (!watched.work->isCompleted()) return forgotten ? Look::kComplete : Look::kOpen;
  return watched.work->exception() != nullptr ? Look::kFailed : Look::kComplete;
}

// Whether nothing more is to be learned of it.
bool settle(Watched& watched) {
  try {
    const Look look = look_at(watched);
    if (look != Look::kComplete) return look == Look::kFailed;
    const uint64_t ns = watched.work ? duration_ns(*watched.work) : 0;
    for (Issued& issued : watched.operations) {
      if (issued.kind == Issued::Kind::kFromAny && watched.work) {
        watched.tap->came_from(issued, watched.work->sourceRank());
      }
      watched.tap->record_completed(issued, ns);
    }
  } catch (const std::exception&) {
    // The program gets it from its own wait().
  }
  return true;
}

Clock::duration nap(const std::vector<Watched>& open) {
  const auto oldest = std::ranges::min_element(open, {}, &Watched::since)->since;
  return std::clamp<Clock::duration>((Clock::now() - oldest) / 50, kNapMin, kNapMax);
}

void watch(Watcher& w) {
  ::pthread_setname_np(::pthread_self(), "convoy-works");
  std::vector<Watched> open;
  std::unique_lock lock(w.mutex);
  while (!w.ending) {
    std::ranges::move(w.added, std::back_inserter(open));
    w.added.clear();
    if (open.empty()) {
      w.asleep = true;
      w.changed.wait(lock, [&] { return w.ending || !w.added.empty(); });
      w.asleep = false;
      continue;
    }
    lock.unlock();
    std::erase_if(open, settle);
    if (!open.empty()) std::this_thread::sleep_for(nap(open));
    lock.lock();
  }
  lock.unlock();
  // What is still held stays: at a process's end the libraries that could take it down are going.
  new std::vector<Watched>(std::move(open));
}

void end_watching() {
  Watcher& w = watcher();
  const std::lock_guard lock(w.mutex);
  w.ending = true;
  w.changed.notify_all();
}

void add(Watched watched) {
  Watcher& w = watcher();
  const std::lock_guard lock(w.mutex);
  if (w.ending) return;
  w.added.push_back(std::move(watched));
  if (!w.started) {
    w.started = true;
    std::thread([&w] { watch(w); }).detach();
    std::atexit(end_watching);
  } else if (w.asleep) {
    w.changed.notify_one();
  }
}

}  // namespace

void watch_work(std::shared_ptr<GroupTap> tap, c10::intrusive_ptr<c10d::Work> work,
                std::vector<Issued> operations) {
  add({std::move(tap), std::move(work), std::nullopt, std::move(operations), Clock::now()});
}

void watch_stream(std::shared_ptr<GroupTap> tap, const c10::Stream& stream,
                  std::vector<Issued> operations) {
  c10::Event event(stream.device_type());
  event.record(stream);
  add({std::move(tap), nullptr, std::move(event), std::move(operations), Clock::now()});
}

}  // namespace convoy::trace
