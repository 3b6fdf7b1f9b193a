// A node's collector: one thread that finds the ranks' segments, drains them, and sends.
#include "trace/aggregator/uplink.h"
#include "trace/aggregator/wire.h"
#include "trace/collect/rank_drain.h"
#include <convoy/base/log.h>
#include <convoy/trace/collector.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <poll.h>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;
using Time = std::chrono::steady_clock::time_point;

constexpr auto kLookAroundEvery = 1s;
constexpr auto kYoung = 60s;           // a process that may still begin to record
constexpr auto kLookAgainEvery = 10s;  // at one that is older
constexpr auto kEager = 50ms;          // between looks at a young one that was asked for
constexpr auto kParentsWord = 1s;      // is awaited for so long
constexpr auto kDeadToldEvery = 1s, kDeadToldFor = 60s;
constexpr int kDrainsMax = 64;  // of one rank in one turn

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Wakes the thread out of poll(). Shared with callbacks that may come late.
struct Bell {
  UniqueFd fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  void ring() const {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(fd.get(), &one, sizeof one);
  }
  void hush() const {
    uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(fd.get(), &count, sizeof count);
  }
};

// A process that records.
struct Rank {
  std::unique_ptr<RankDrain> drain;  // null: has ended and is read to the end
  std::unique_ptr<ProcessWatch> process;
  int pid = 0;
  uint32_t rank = 0;
  uint64_t generation = 0;
  bool is_told = false;       // host and pid
  bool parent_tells = false;  // how it ends
  RankState last;             // of one that has ended
  Time ended{}, told{};
};

// What a parent tells.
struct End {
  int wait_status = 0;
  int64_t time = 0;
};

// A process that does not record, so far.
struct Stranger {
  Time since{}, looked{};
  bool is_watched = false;    // by name, or its parent is: looked at each turn
  bool parent_tells = false;  // how it ends
};

class NodeCollector final : public Collector {
 public:
  NodeCollector(const CollectorOptions& options, std::shared_ptr<Bell> bell)
      : options_(options), bell_(std::move(bell)), job_(options.job) {}
  ~NodeCollector() override {
    ending_ = true;
    bell_->ring();
    if (thread_.joinable()) thread_.join();
  }

  Status begin() {
    if (options_.host.empty()) options_.host = host_name();
    UplinkOptions up;
    up.address = options_.aggregator;
    up.connection = options_.connection;
    up.host = options_.host;
    up.job = job_;
    up.buffer_bytes_max = options_.buffer_bytes_max;
    up.now = [] { return now_on(CLOCK_MONOTONIC); };
    up.wake = [bell = bell_] { bell->ring(); };
    CONVOY_ASSIGN_OR_RETURN(uplink_, Uplink::create(up, registry_));
    thread_ = std::thread([this] { run(); });
    return ok_status();
  }

  void watch(int pid) override {
    const std::lock_guard lock(mutex_);
    to_watch_.push_back(pid);
    ends_.erase(pid);  // of one that had this number before
    has_orders_ = true;
    bell_->ring();
  }
  void ended(int pid, int wait_status, int64_t time) override {
    const std::lock_guard lock(mutex_);
    ends_[pid] = {wait_status, time};
    has_orders_ = true;
    bell_->ring();
  }
  void stopped() override { is_stopped_ = true; }
  void set_job(const JobInfo& job) override {
    const std::lock_guard lock(mutex_);
    given_job_ = job;
  }
  CollectorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void run();
  void take_orders();
  void look_around(Time now);
  bool look_at_watched(Time now);
  void forget_ended(std::map<int, Stranger> found);
  bool is_traced(int pid) const;
  bool awaits_young(Time now) const;
  bool try_segment(int pid, Stranger& stranger, Time now);
  void adopt(std::shared_ptr<Segment> segment, bool parent_tells);
  void drain_all(Time now);
  void resize(uint32_t world_size);
  void renumber();
  void drain(Rank& rank, Time now);
  bool has_ended(Rank& rank, RankState& state, Time now);
  void repeat_death(Rank& rank, Time now);
  void wait_until(Time until);
  void tell_stats();

  CollectorOptions options_;
  const std::shared_ptr<Bell> bell_;
  std::atomic<bool> ending_{false}, is_stopped_{false};
  std::thread thread_;

  // The thread's own.
  Registry registry_;
  std::unique_ptr<Uplink> uplink_;
  JobInfo job_;
  std::map<uint32_t, Rank> ranks_;  // by rank
  std::map<int, Stranger> strangers_;
  Time look_at_{};
  uint64_t events_ = 0;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<int> to_watch_;
  std::map<int, End> ends_;  // by pid
  bool has_orders_ = false;
  std::optional<JobInfo> given_job_;
  CollectorStats stats_;
};

void NodeCollector::run() {
  while (!ending_) {
    const Time now = std::chrono::steady_clock::now();
    take_orders();
    look_around(now);
    drain_all(now);
    uplink_->set_job(job_);
    uplink_->turn();
    tell_stats();
    wait_until(now + options_.period);
  }
  const Time last = std::chrono::steady_clock::now() + options_.last_words;
  drain_all(std::chrono::steady_clock::now());
  for (uplink_->turn(); !uplink_->idle(); uplink_->turn()) {
    if (std::chrono::steady_clock::now() >= last) break;
    std::this_thread::sleep_for(5ms);
  }
  tell_stats();
}

void NodeCollector::take_orders() {
  const std::lock_guard lock(mutex_);
  has_orders_ = false;
  for (const int pid : std::exchange(to_watch_, {})) {
    strangers_[pid] = {std::chrono::steady_clock::now(), {}, true, options_.parent_tells};
  }
  if (!given_job_) return;
  const JobInfo given = *std::exchange(given_job_, std::nullopt);
  if (given.generation >= job_.generation) job_ = given;
}

void NodeCollector::look_around(Time now) {
  look_at_watched(now);
  if (now < look_at_) return;
  look_at_ = now + kLookAroundEvery;
  std::map<int, Stranger> found;
  const std::vector<int> pids = options_.look_around ? all_processes() : std::vector<int>();
  for (const int pid : pids) {
    const auto known = strangers_.find(pid);
    found[pid] = known != strangers_.end() ? known->second : Stranger{now, {}, false, false};
  }
  forget_ended(std::move(found));
  for (auto& [pid, stranger] : strangers_) {
    const bool is_due = now - stranger.since < kYoung || now - stranger.looked >= kLookAgainEvery;
    if (is_due && !stranger.is_watched) try_segment(pid, stranger, now);
  }
}

// True: one has begun to record. A rank's own process may be a script that starts what records.
bool NodeCollector::look_at_watched(Time now) {
  bool has_begun = false;
  for (auto& [pid, stranger] : strangers_) {
    if (!stranger.is_watched) continue;
    has_begun |= try_segment(pid, stranger, now);
    if (is_traced(pid)) continue;
    for (const int child : children_of(pid))
      strangers_.try_emplace(child, Stranger{now, {}, true, false});
  }
  return has_begun;
}

// `found`: those of this machine, if they are looked for. Those that are watched stay.
void NodeCollector::forget_ended(std::map<int, Stranger> found) {
  for (const auto& [pid, stranger] : strangers_) {
    if (stranger.is_watched && ::access(("/proc/" + std::to_string(pid)).c_str(), F_OK) == 0) {
      found[pid] = stranger;
    }
  }
  strangers_ = std::move(found);
}

bool NodeCollector::is_traced(int pid) const {
  return std::ranges::any_of(
      ranks_, [&](const auto& r) { return r.second.pid == pid && r.second.drain != nullptr; });
}

bool NodeCollector::try_segment(int pid, Stranger& stranger, Time now) {
  stranger.looked = now;
  if (is_traced(pid)) return false;
  auto segment = segment_of(pid);
  if (segment == nullptr || segment->rank() < 0) return false;
  if (!options_.job.job.empty() && !stranger.is_watched) {
    const std::string job = environment_of(pid, "CONVOY_JOB_ID");
    if (!job.empty() && job != options_.job.job) return false;
  }
  adopt(std::move(segment), stranger.parent_tells);
  return is_traced(pid);
}

// A rank is one process at a time: the first that is there, until it ends or a later generation's
// comes.
void NodeCollector::adopt(std::shared_ptr<Segment> segment, bool parent_tells) {
  const auto number = static_cast<uint32_t>(segment->rank());
  const auto known = ranks_.find(number);
  if (known != ranks_.end() && known->second.drain != nullptr &&
      known->second.generation >= segment->generation()) {
    return;
  }
  Rank& rank = ranks_[number];
  if (rank.drain != nullptr) drain(rank, std::chrono::steady_clock::now());  // its last records
  rank = {};
  rank.parent_tells = parent_tells;
  rank.pid = segment->pid();
  rank.rank = number;
  rank.generation = segment->generation();
  rank.process = std::make_unique<ProcessWatch>(segment->pid());
  if (segment->generation() > job_.generation || job_.world_size == 0) {
    job_.generation = std::max(job_.generation, segment->generation());
    resize(static_cast<uint32_t>(std::max(0, segment->world_size())));
  }
  rank.drain = std::make_unique<RankDrain>(std::move(segment), registry_);
}

// The mesh is known of as many ranks as the job was started with.
void NodeCollector::resize(uint32_t world_size) {
  if (world_size == 0) return;
  const uint32_t before = std::exchange(job_.world_size, world_size);
  if (before == 0 || before == world_size) return;
  const JobInfo& first = options_.job;
  job_.mesh = first.world_size == world_size ? first.mesh : std::vector<Dimension>();
}

void NodeCollector::drain_all(Time now) {
  for (auto& [number, rank] : ranks_) {
    if (rank.drain != nullptr) {
      drain(rank, now);
    } else {
      repeat_death(rank, now);
    }
  }
  renumber();
}

// A process may have another rank in another generation. Whose place is still taken waits: the one
// there is about to leave it.
void NodeCollector::renumber() {
  std::vector<std::map<uint32_t, Rank>::node_type> moved;
  for (auto at = ranks_.begin(); at != ranks_.end();) {
    const auto next = std::next(at);
    if (at->second.drain != nullptr && at->second.drain->rank() != at->first) {
      moved.push_back(ranks_.extract(at));
    }
    at = next;
  }
  for (auto& node : moved) {
    const uint32_t number = node.mapped().drain->rank();
    const auto there = ranks_.find(number);
    if (there == ranks_.end() || there->second.drain == nullptr) {
      ranks_.erase(number);
      node.key() = node.mapped().rank = number;
    }
    ranks_.insert(std::move(node));
  }
}

void NodeCollector::drain(Rank& rank, Time now) {
  // Looked at first: what a process that has ended has written is all there.
  RankState state;
  const bool has_ended = this->has_ended(rank, state, now);
  if (!has_ended && rank.ended != Time{} && !is_stopped_) return;  // its parent's word is awaited
  bool more = true;
  for (int i = 0; more && (has_ended || i < kDrainsMax); ++i) {
    Batch batch;
    more = rank.drain->drain(batch, has_ended);
    if (batch.generation > rank.generation) {  // the same process goes on in another one
      rank.generation = batch.generation;
      rank.is_told = false;
      if (batch.generation > job_.generation) {
        job_.generation = batch.generation;
        resize(rank.drain->world_size());
      }
    }
    events_ += batch.operations.size() + batch.spans.size() + batch.counters.size();
    if (!std::exchange(rank.is_told, true)) {
      batch.host = options_.host;
      batch.pid = rank.pid;
    }
    if (!more || i + 1 == kDrainsMax) {
      rank.drain->fill_state(state);
      if (!has_ended) state.time = now_on(CLOCK_MONOTONIC);
      batch.state = state;
      if (has_ended) rank.last = *batch.state;
    }
    uplink_->add(std::move(batch));
  }
  if (!has_ended) return;
  rank.drain = nullptr;
  rank.process = nullptr;
  rank.ended = rank.told = now;
}

// Fills in life and, of one that has ended, exit code and time.
bool NodeCollector::has_ended(Rank& rank, RankState& state, Time now) {
  state.life = rank.process->look(state.exit_code);
  if (state.life != Life::kExited && state.life != Life::kKilled) return false;
  if (is_stopped_) {
    state.life = Life::kRunning;
    return false;
  }
  if (rank.ended == Time{}) rank.ended = now;
  state.time = now_on(CLOCK_MONOTONIC);
  const std::lock_guard lock(mutex_);
  const auto told = ends_.find(rank.pid);
  if (told != ends_.end()) {
    state.life = life_of_wait_status(told->second.wait_status, state.exit_code);
    state.time = told->second.time;
    return true;
  }
  if (!rank.parent_tells || ending_ || now - rank.ended >= kParentsWord) return true;
  return false;
}

// For an aggregator that has begun anew meanwhile.
void NodeCollector::repeat_death(Rank& rank, Time now) {
  if (now - rank.ended > kDeadToldFor || now - rank.told < kDeadToldEvery) return;
  rank.told = now;
  Batch batch;
  batch.rank = rank.rank;
  batch.generation = rank.generation;
  batch.state = rank.last;
  batch.state->time = now_on(CLOCK_MONOTONIC);
  uplink_->add(std::move(batch));
}

// Until then, serving the uplink; not longer than until a process has ended or begins to record.
void NodeCollector::wait_until(Time until) {
  std::vector<pollfd> fds{{bell_->fd.get(), POLLIN, 0}};
  for (const auto& [number, rank] : ranks_) {
    if (rank.process != nullptr && rank.process->fd() >= 0 && rank.ended == Time{}) {
      fds.push_back({rank.process->fd(), POLLIN, 0});
    }
  }
  while (!ending_) {
    const Time now = std::chrono::steady_clock::now();
    if (now >= until) return;
    const auto left = std::min<Nanos>(until - now, awaits_young(now) ? kEager : Nanos::max());
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    ::poll(fds.data(), fds.size(), static_cast<int>(ms));
    if ((fds[0].revents & POLLIN) != 0) {
      bell_->hush();
      uplink_->turn();
      const std::lock_guard lock(mutex_);
      if (has_orders_) return;
    }
    if (std::any_of(fds.begin() + 1, fds.end(), [](const pollfd& f) { return f.revents != 0; })) {
      return;
    }
    if (awaits_young(now) && look_at_watched(std::chrono::steady_clock::now())) return;
  }
}

// One that was asked for, and may begin to record at any moment.
bool NodeCollector::awaits_young(Time now) const {
  return std::ranges::any_of(strangers_, [&](const auto& s) {
    return s.second.is_watched && now - s.second.since < kYoung && !is_traced(s.first);
  });
}

void NodeCollector::tell_stats() {
  const Uplink::Stats& up = uplink_->stats();
  CollectorStats stats;
  stats.ranks = static_cast<uint32_t>(
      std::ranges::count_if(ranks_, [](const auto& r) { return r.second.drain != nullptr; }));
  stats.connected = up.connected;
  stats.events = events_;
  stats.sent_bytes = up.sent_bytes;
  stats.acknowledged = up.acknowledged;
  stats.connections = up.connections;
  stats.shed = uplink_->outbox().shed();
  stats.buffered_bytes = uplink_->outbox().bytes();
  const std::lock_guard lock(mutex_);
  stats_ = stats;
}

Status check(const CollectorOptions& options) {
  if (options.aggregator.find(':') == std::string::npos) {
    return {Code::kInvalidArgument,
            "the aggregator's address is '" + options.aggregator + "': it has to be HOST:PORT"};
  }
  if (options.period < 1ms || options.buffer_bytes_max < (1 << 16)) {
    return {Code::kInvalidArgument,
            "a collector needs a period of at least 1 ms and a buffer of at least 64 KiB"};
  }
  return ok_status();
}

}  // namespace

extern "C" Status convoy_trace_start_collector(const CollectorOptions& options,
                                               std::unique_ptr<Collector>& started) {
  CONVOY_RETURN_IF_ERROR(check(options));
  auto collector = std::make_unique<NodeCollector>(options, std::make_shared<Bell>());
  CONVOY_RETURN_IF_ERROR(collector->begin());
  started = std::move(collector);
  return ok_status();
}

}  // namespace convoy::trace
