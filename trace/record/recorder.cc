// Who writes where: a thread takes a free ring with its first record and gives it back when it
// ends; what stands in the ring stays. The segment is kept mapped for good, since threads may be in
// the middle of a record.
#include "trace/record/cost.h"
#include "trace/record/governor.h"
#include "trace/record/host_counters.h"
#include "trace/record/sockets.h"
#include <convoy/base/log.h>
#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <pthread.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace convoy::trace {
namespace {

constexpr auto kBetweenAnchors = std::chrono::seconds(1);
// The first two anchors tell the rate, to some 50 ppm, until the next one comes.
constexpr auto kFirstAnchors = std::chrono::milliseconds(2);

constinit const std::atomic<uint8_t> off{0};

// Of the open recorder. Leaked: threads record until the process's end.
struct State {
  std::mutex mutex;
  std::shared_ptr<Segment> segment;  // guarded by mutex, as what follows
  std::map<std::string, uint16_t, std::less<>> names;
  std::vector<int32_t> threads;  // that have a ring, by their ids in the kernel
  bool told_full = false;

  std::condition_variable changed;
  bool ending = false;
  std::thread keeper;
};

State& state() {
  static auto* const the = new State;
  return *the;
}

void add_anchor(Segment& segment) {
  const Anchor a = take_anchor();
  layout::Header& header = segment.header();
  const uint64_t count = header.anchor_count.load(std::memory_order_relaxed);
  auto& words = header.anchors[count % layout::kAnchors];
  // Released one by one, as a ring's words are: a reader that sees one sees the count.
  words[0].store(a.ticks, std::memory_order_release);
  words[1].store(static_cast<uint64_t>(a.monotonic_ns), std::memory_order_release);
  words[2].store(static_cast<uint64_t>(a.realtime_ns), std::memory_order_release);
  header.anchor_count.store(count + 1, std::memory_order_release);
}

double budget_from_environment() {
  const char* text = std::getenv("CONVOY_TRACE_BUDGET");
  if (text == nullptr) return kBudget;
  const Result<double> budget = parse_budget(text);
  if (budget.ok()) return *budget;
  CONVOY_LOG(Warn) << budget.status().message() << "; tracing may cost " << kBudget * 100 << " %";
  return kBudget;
}

void record_counter(const char* name, double value) {
  record(Level::kCollectives, {.value = static_cast<uint64_t>(std::max(0.0, value)),
                               .name = intern(name),
                               .kind = Kind::kCounter});
}

// What the keeper does every second. Used by its thread only.
class Keeper {
 public:
  explicit Keeper(std::shared_ptr<Segment> segment) : segment_(std::move(segment)) {}

  // `threads`: see HostCounters.
  void work(const std::vector<int32_t>& threads) {
    add_anchor(*segment_);
    govern();
    if (!records(Level::kCollectives)) return;
    host_.sample(threads);
    sample_sockets();
  }

 private:
  void govern() {
    const Anchor now = take_anchor();
    const double passed = static_cast<double>(now.ticks - last_.ticks);
    const double seconds = static_cast<double>(now.monotonic_ns - last_.monotonic_ns) / 1e9;
    if (passed <= 0 || seconds <= 0) return;
    const double share = cost_.take(*segment_) / passed;
    cost_ns_ += share * seconds * 1e9;
    last_ = now;
    const Level level = segment_->level(), next = governor_.decide(level, share, seconds);
    // Whoever sets it at this moment wins.
    auto was = static_cast<uint8_t>(level);
    segment_->header().level.compare_exchange_strong(was, static_cast<uint8_t>(next));
    record_counter(names::kTracerCost, cost_ns_);
    record_counter(names::kTracerShare, share * 1e6);
    record_counter(names::kTracerLevel, static_cast<double>(next));
  }

  const std::shared_ptr<Segment> segment_;
  Governor governor_{budget_from_environment()};
  HostCounters host_;
  Anchor last_ = take_anchor();
  CostSince cost_;
  double cost_ns_ = 0;
};

void keep(State& s, const std::shared_ptr<Segment>& segment) {
  ::pthread_setname_np(::pthread_self(), "convoy-trace");
  Keeper keeper(segment);
  std::unique_lock lock(s.mutex);
  while (!s.changed.wait_for(lock, kBetweenAnchors, [&] { return s.ending; })) {
    const std::vector<int32_t> threads = s.threads;
    lock.unlock();
    keeper.work(threads);
    lock.lock();
  }
}

// Gives the ring back when the thread ends.
struct RingOfThread {
  bool is_used = false;
  ~RingOfThread() {
    if (!detail::writer.aimed()) return;
    State& s = state();
    {
      const std::lock_guard lock(s.mutex);
      std::erase(s.threads, static_cast<int32_t>(::syscall(SYS_gettid)));
    }
    detail::writer.ring()->taken.store(0, std::memory_order_release);
    detail::writer.aim(nullptr, nullptr, 0);
  }
};
thread_local RingOfThread ring_of_thread;

// In a child the parent's rings are the parent's.
void forget_in_child() {
  detail::level = &off;
  detail::writer.aim(nullptr, nullptr, 0);
  State& s = state();
  new (&s) State;  // its lock may be held, its thread is not there; both are leaked
}

}  // namespace

namespace detail {

constinit std::atomic<const std::atomic<uint8_t>*> level{&off};
bool cycles = ticks_are_cycles();
thread_local constinit RingWriter writer;

bool take_ring() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.segment == nullptr) return false;
  layout::Header& header = s.segment->header();
  for (uint32_t i = 0; i < header.ring_count; ++i) {
    layout::Ring& ring = layout::ring_of(header, i);
    uint32_t free = 0;
    if (!ring.taken.compare_exchange_strong(free, 1, std::memory_order_acquire)) continue;
    ring_of_thread.is_used = true;  // so that its destructor runs
    writer.aim(&ring, layout::records_of(header, i), header.ring_records - 1);
    const auto thread = static_cast<int32_t>(::syscall(SYS_gettid));
    if (std::this_thread::get_id() != s.keeper.get_id()) s.threads.push_back(thread);
    writer.write({.time = ticks(), .value = static_cast<uint64_t>(thread), .kind = Kind::kThread});
    return true;
  }
  header.unplaced.fetch_add(1, std::memory_order_relaxed);
  return false;
}

}  // namespace detail

Result<double> parse_budget(std::string_view text) {
  if (text == "off") return 1.0;
  std::string_view number = text;
  if (number.ends_with('%')) number.remove_suffix(1);
  double percent = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), percent);
  if (error != std::errc() || end != number.data() + number.size() || !(percent >= 0) ||
      percent > 100) {
    return Status(Code::kInvalidArgument, "CONVOY_TRACE_BUDGET is '" + std::string(text) +
                                              "'; take a percentage such as 0.1%, or off");
  }
  return percent / 100;
}

Result<std::shared_ptr<Segment>> open_recorder(const SegmentOptions& options, Level level) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.segment == nullptr) {
    static const int once = ::pthread_atfork(nullptr, nullptr, forget_in_child);
    (void)once;
    CONVOY_ASSIGN_OR_RETURN(s.segment, Segment::create(options));
    add_anchor(*s.segment);
    std::this_thread::sleep_for(kFirstAnchors);
    add_anchor(*s.segment);
  }
  if (!s.keeper.joinable()) {
    s.ending = false;
    s.keeper = std::thread([&s, segment = s.segment] { keep(s, segment); });
  }
  s.segment->set_level(level);
  detail::level = &s.segment->header().level;
  return s.segment;
}

void begin_generation(uint64_t generation, int rank, int world_size) {
  if (const auto segment = recorder_segment()) {
    segment->begin_generation({generation, ticks(), rank, world_size});
  }
}

std::shared_ptr<Segment> recorder_segment() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.keeper.joinable() ? s.segment : nullptr;
}

void close_recorder() {
  State& s = state();
  std::thread keeper;
  {
    const std::lock_guard lock(s.mutex);
    if (!s.keeper.joinable()) return;
    detail::level = &off;
    add_anchor(*s.segment);
    s.ending = true;
    keeper = std::move(s.keeper);
  }
  s.changed.notify_all();
  keeper.join();
}

uint16_t intern(std::string_view name) {
  if (name.empty()) return 0;
  name = name.substr(0, layout::kNameLengthMax);
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.segment == nullptr) return 0;
  if (const auto known = s.names.find(name); known != s.names.end()) return known->second;
  layout::Header& header = s.segment->header();
  const uint32_t count = header.name_count.load(std::memory_order_relaxed);
  const uint32_t at = header.name_bytes.load(std::memory_order_relaxed);
  if (count == layout::kNamesMax || name.size() > layout::kNameBytesMax - at) {
    if (!s.told_full) {
      CONVOY_LOG(Warn) << "the trace has no room for more names: " << std::string(name)
                       << " and others are left out";
    }
    s.told_full = true;
    return 0;
  }
  std::memcpy(header.text.data() + at, name.data(), name.size());
  header.names[count] = {at, static_cast<uint32_t>(name.size())};
  header.name_bytes.store(at + static_cast<uint32_t>(name.size()), std::memory_order_relaxed);
  header.name_count.store(count + 1, std::memory_order_release);
  const auto id = static_cast<uint16_t>(count + 1);
  s.names.emplace(name, id);
  return id;
}

}  // namespace convoy::trace
