// From /proc to counters. The run queue's and the disk's waits are known thread by thread and
// vanish with the thread, so their growth is added up.
#include "trace/record/host_counters.h"

#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

namespace convoy::trace {
namespace {

constexpr int kDelayField = 42;  // of /proc/PID/stat: waiting for block devices, in clock ticks

void record_counter(const char* name, uint64_t value) {
  record(Level::kCollectives, {.value = value, .name = intern(name), .kind = Kind::kCounter});
}

std::string task_file(int32_t thread, const char* name) {
  return "/proc/self/task/" + std::to_string(thread) + "/" + name;
}

std::optional<uint64_t> run_queue_ns(int32_t thread) {
  std::ifstream file(task_file(thread, "schedstat"));
  uint64_t running = 0, waiting = 0;
  if (!(file >> running >> waiting)) return std::nullopt;
  return waiting;
}

uint64_t thread_disk_wait_ns(int32_t thread) {
  std::ifstream file(task_file(thread, "stat"));
  std::string text;
  if (!std::getline(file, text)) return 0;
  // The second field is a name in brackets, which may hold anything.
  std::istringstream fields(text.substr(std::min(text.rfind(')'), text.size() - 1) + 1));
  std::string field;
  for (int i = 3; i <= kDelayField; ++i) {
    if (!(fields >> field)) return 0;
  }
  const auto ticks = static_cast<uint64_t>(std::strtoull(field.c_str(), nullptr, 10));
  return ticks * 1000000000 / static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
}

// "some … total=4331933701", in us.
std::optional<uint64_t> host_disk_wait_ns() {
  std::ifstream file("/proc/pressure/io");
  std::string word;
  while (file >> word) {
    if (word.starts_with("total=")) return std::strtoull(word.c_str() + 6, nullptr, 10) * 1000;
  }
  return std::nullopt;
}

uint64_t processor_ns() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<uint64_t>(used.tv_sec) * 1000000000 + static_cast<uint64_t>(used.tv_nsec);
}

}  // namespace

HostCounters::HostCounters() : self_(::getpid()) {
  int is_on = 0;
  delays_are_counted_ =
      static_cast<bool>(std::ifstream("/proc/sys/kernel/task_delayacct") >> is_on) && is_on != 0;
}

std::optional<uint64_t> HostCounters::disk_wait_ns() const {
  return delays_are_counted_ ? disk_wait_ns_ : host_disk_wait_ns();
}

void HostCounters::sample(const std::vector<int32_t>& threads) {
  std::vector<int32_t> all = threads;
  if (std::ranges::find(all, self_) == all.end()) all.push_back(self_);
  std::map<int32_t, Thread> now;
  for (const int32_t id : all) {
    const std::optional<uint64_t> waited = run_queue_ns(id);
    if (!waited) continue;
    const Thread thread{*waited, delays_are_counted_ ? thread_disk_wait_ns(id) : 0};
    const Thread before = seen_.contains(id) ? seen_[id] : thread;
    // Less than before: another thread has got the number.
    if (thread.run_queue_ns >= before.run_queue_ns) {
      run_queue_ns_ += thread.run_queue_ns - before.run_queue_ns;
      disk_wait_ns_ += thread.disk_wait_ns - std::min(before.disk_wait_ns, thread.disk_wait_ns);
    }
    now[id] = thread;
  }
  seen_ = std::move(now);

  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  record_counter(names::kRunQueue, run_queue_ns_);
  record_counter(names::kProcessor, processor_ns());
  record_counter(names::kPageFaults, static_cast<uint64_t>(usage.ru_majflt));
  if (const auto waited = disk_wait_ns()) record_counter(names::kDiskWait, *waited);
}

}  // namespace convoy::trace
