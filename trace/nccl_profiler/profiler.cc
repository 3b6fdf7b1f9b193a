// Levels: off goes on counting. Ranks are switched one after the other, and a rank that had missed
// calls would never again have the others' numbers; so NCCL still tells of calls, launches and
// messages, and gets no handles, which spares it the rest.
#include "trace/nccl_profiler/profiler.h"

#include <convoy/base/log.h>
#include <convoy/trace/nccl.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <pthread.h>
#include <unistd.h>

namespace convoy::trace::nccl {
namespace {

constexpr int kSystemError = 2;  // ncclSystemError
constexpr auto kBetweenLooks = std::chrono::milliseconds(100);
constexpr uint32_t kLooksForSums = 3;  // counters are published at every third
// NCCL has a proxy thread for each communicator, and each takes a ring.
constexpr uint32_t kRings = 64;

int number_of(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    const char* text = std::getenv(variable);
    if (text == nullptr) continue;
    int number = 0;
    const auto [end, error] = std::from_chars(text, text + std::strlen(text), number);
    if (error == std::errc() && *end == 0 && number >= 0) return number;
  }
  return otherwise;
}

TickRate rate_of(const std::vector<Anchor>& anchors) {
  if (!ticks_are_cycles() || anchors.size() < 2) return {};
  const Anchor &a = anchors.front(), &b = anchors.back();
  if (b.ticks <= a.ticks || b.monotonic_ns <= a.monotonic_ns) return {};
  return {static_cast<double>(b.monotonic_ns - a.monotonic_ns) /
          static_cast<double>(b.ticks - a.ticks)};
}

// The id stays: the next communicator of this name counts from 1 again.
std::string group_name(uint64_t id, std::string_view name) {
  char text[32];
  std::snprintf(text, sizeof text, "%lx", static_cast<unsigned long>(id));
  return "nccl/" + std::string(name) + (name.empty() ? "" : " ") + text;
}

}  // namespace

int mask_of(Level level, bool has_copy_engine) {
  uint64_t mask = event::kCollectiveCall | event::kCollective | event::kMessage;
  if (level >= Level::kCollectives) mask |= event::kMessageCall | event::kKernelChannel;
  if (level >= Level::kCollectives && has_copy_engine) mask |= event::kCopyCollective;
  if (level >= Level::kSpans) mask |= event::kKernelLaunch | event::kProxyOp | event::kProxyStep;
  return static_cast<int>(mask);
}

Profiler& Profiler::get() {
  static auto* const the = new Profiler;
  return *the;
}

Profiler::Profiler() {
  for (uint8_t i = 0; i < kCommunicatorsMax; ++i) {
    communicators_[i].attach(i, &names_, &rate_, &losses_);
  }
  (void)::pthread_atfork(nullptr, nullptr, forget_in_child);
}

// A child has neither the thread nor NCCL's; whoever held the lock is not there.
void Profiler::forget_in_child() {
  Profiler& p = get();
  p.pid_ = 0;
  new (&p.mutex_) std::mutex;
  new (&p.changed_) std::condition_variable;
  new (&p.thread_) std::thread;
  p.mask_ = nullptr;
  p.open_count_ = 0;
  for (Communicator& c : p.communicators_) c.forget();
}

// --- Communicators.

// The script has opened no recorder: what the launch contract says (docs/launch.md) counts.
bool Profiler::open_own_recorder() {
  if (recorder_segment() != nullptr) return true;
  const char* text = std::getenv("CONVOY_TRACE");
  const Level level = level_of(text == nullptr ? "spans" : text).value_or(Level::kSpans);
  SegmentOptions options;
  options.rings = kRings;
  options.rank = number_of({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}, -1);
  options.world_size =
      number_of({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}, 0);
  options.generation = static_cast<uint64_t>(number_of({"CONVOY_GENERATION"}, 0));
  const auto opened = open_recorder(options, level);
  if (!opened.ok()) {
    CONVOY_LOG(Warn) << "NCCL is not traced: " << opened.status().to_string();
  }
  return opened.ok();
}

CommunicatorOptions Profiler::options_for(uint64_t id, const char* name, uint32_t size,
                                          uint32_t rank) {
  CommunicatorOptions options;
  options.size = size;
  const char* gatherv = std::getenv("NCCL_ALLGATHERV_ENABLE");
  options.tells_broadcasts = gatherv != nullptr && std::strcmp(gatherv, "0") == 0;
  const auto segment = recorder_segment();
  std::string group = group_name(id, "");
  const auto named = name == nullptr ? ranks_of_.end() : ranks_of_.find(std::string_view(name));
  if (named != ranks_of_.end() && named->second.size() == size) {
    options.ranks = named->second;
    group = group_name(id, name);
  } else if (segment != nullptr && segment->world_size() == static_cast<int>(size) &&
             segment->rank() == static_cast<int>(rank)) {
    for (uint32_t r = 0; r < size; ++r) options.ranks.push_back(r);
  }
  const auto text = [&](const std::string& of) {
    return options.ranks.empty() ? membership_text({of, rank, size})
                                 : group_text({of, options.ranks});
  };
  options.group = intern(text(group));
  options.graph_group = intern(text(group + "/graph"));
  return options;
}

int Profiler::init(void** context, uint64_t id, int* mask, const char* name, int size, int rank,
                   bool has_copy_engine) {
  if (context == nullptr || size < 1 || rank < 0 || rank >= size) return kSystemError;
  const std::lock_guard lock(mutex_);
  *context = nullptr;
  if (!open_own_recorder()) return kSystemError;
  if (pid_ == 0) {
    names_.intern_all();
    publisher_.intern_names();
    rate_ = rate_of(recorder_segment()->anchors());
    pid_ = ::getpid();
  }
  uint8_t place = 0;
  while (place < kCommunicatorsMax && communicators_[place].is_open()) ++place;
  ++open_count_;
  mask_ = mask;
  has_copy_engine_ = has_copy_engine;
  set_mask();
  if (!thread_.joinable()) {
    ending_ = false;
    thread_ = std::thread([this] { run(); });
  }
  if (place == kCommunicatorsMax) {
    // An error would make NCCL unload the plugin for all.
    if (!told_full_) {
      CONVOY_LOG(Warn) << "more than " << int{kCommunicatorsMax}
                       << " NCCL communicators: the others are not traced";
    }
    told_full_ = true;
    *context = Handle{HandleKind::kContext, kCommunicatorsMax}.pack();
    return 0;
  }
  CommunicatorOptions options =
      options_for(id, name, static_cast<uint32_t>(size), static_cast<uint32_t>(rank));
  communicators_[place].open(options);
  *context = Handle{HandleKind::kContext, place, communicators_[place].life()}.pack();
  return 0;
}

int Profiler::finalize(void* context) {
  if (pid_ == 0) return 0;
  const Handle h = Handle::unpack(context);
  std::thread ended;
  {
    const std::lock_guard lock(mutex_);
    Communicator* communicator = context_of(context);
    const bool is_beyond = h.kind == HandleKind::kContext && h.communicator == kCommunicatorsMax;
    if (communicator == nullptr && !is_beyond) {
      stale();
      return 0;
    }
    if (communicator != nullptr) {
      communicator->settle();
      communicator->settle();
      communicator->close();
      publisher_.publish(rate_);
      publisher_.keep_sums(h.communicator);
      proxies_.release(h.communicator);
      links_.release(h.communicator);
    }
    if (--open_count_ > 0) return 0;
    mask_ = nullptr;  // NCCL may be unloaded
    ending_ = true;
    ended = std::move(thread_);
  }
  changed_.notify_all();
  if (ended.joinable()) ended.join();
  return 0;
}

void Profiler::name_communicator(std::string_view name, std::vector<uint32_t> ranks) {
  const std::lock_guard lock(mutex_);
  ranks_of_.insert_or_assign(std::string(name), std::move(ranks));
}

// --- The thread.

void Profiler::set_mask() {
  if (mask_ == nullptr) return;
  const auto segment = recorder_segment();
  const Level level = segment == nullptr ? Level::kOff : segment->level();
  __atomic_store_n(mask_, mask_of(level, has_copy_engine_), __ATOMIC_RELAXED);
}

void Profiler::run() {
  ::pthread_setname_np(::pthread_self(), "convoy-nccl");
  std::unique_lock lock(mutex_);
  for (uint32_t i = 1; !changed_.wait_for(lock, kBetweenLooks, [&] { return ending_; }); ++i) {
    set_mask();
    for (Communicator& c : communicators_) c.settle();
    if (i % kLooksForSums == 0) publisher_.publish(rate_);
  }
}

void Profiler::keep() {
  const std::lock_guard lock(mutex_);
  set_mask();
  for (Communicator& c : communicators_) c.settle();
  publisher_.publish(rate_);
}

// --- Callbacks.

Communicator* Profiler::context_of(void* context) {
  const Handle h = Handle::unpack(context);
  if (h.kind != HandleKind::kContext || h.communicator >= kCommunicatorsMax) return nullptr;
  Communicator& c = communicators_[h.communicator];
  return c.is_open_as(h.number) ? &c : nullptr;
}

void* Profiler::start_kernel(const Description& d) {
  const Handle parent = Handle::unpack(d.parent);
  if (parent.communicator >= kCommunicatorsMax) return nullptr;
  return communicators_[parent.communicator].kernel_started(parent, d.kernel_channel.channel,
                                                            d.kernel_channel.timer);
}

void* Profiler::start_proxy(Communicator& c, uint8_t place, const Description& d) {
  const bool is_own = d.proxy_op.pid == pid_.load(std::memory_order_relaxed);
  const Handle parent = Handle::unpack(is_own ? d.parent : nullptr);
  const bool is_here = is_own && parent.communicator == place;
  return proxies_.start(place, c, d, is_here);
}

void* Profiler::start_launch(uint8_t place) {
  if (!records(Level::kSpans)) return nullptr;
  record(Level::kSpans, {.name = names_.launch, .kind = Kind::kBegin});
  return Handle{HandleKind::kLaunch, place}.pack();
}

void Profiler::start(void* context, void** handle, const Description* d) {
  if (handle == nullptr) return;
  *handle = nullptr;
  if (d == nullptr) return;
  // Of a kernel and a step the parent says all; after a split the context is another's.
  if (d->type == event::kKernelChannel) {
    *handle = start_kernel(*d);
    return;
  }
  if (d->type == event::kProxyStep) {
    *handle = proxies_.start_step(Handle::unpack(d->parent), d->proxy_step.step);
    return;
  }
  Communicator* c = context_of(context);
  if (c == nullptr) return stale();
  const uint8_t place = Handle::unpack(context).communicator;
  switch (d->type) {
    case event::kCollectiveCall:
      *handle = c->call(*d);
      break;
    case event::kCollective:
      *handle = c->collective(*d);
      break;
    case event::kMessageCall:
      *handle = c->message_call(*d);
      break;
    case event::kMessage:
      *handle = c->message(*d);
      break;
    case event::kCopyCollective:
      *handle = c->copy_engine(*d);
      break;
    case event::kProxyOp:
      *handle = start_proxy(*c, place, *d);
      break;
    case event::kKernelLaunch:
      *handle = start_launch(place);
      break;
    default:
      break;  // groups: nothing to keep
  }
}

void Profiler::stop(void* handle) {
  const Handle h = Handle::unpack(handle);
  if (h.communicator >= kCommunicatorsMax) return stale();
  Communicator& c = communicators_[h.communicator];
  switch (h.kind) {
    case HandleKind::kCall:
      return c.call_returned(h);
    case HandleKind::kOperation:
      return c.enqueued(h);
    case HandleKind::kKernel:
      return c.kernel_stopped(h);
    case HandleKind::kCopyEngine:
      return c.copy_enqueued(h);
    case HandleKind::kProxyStep:
      return proxies_.stop_step(h, names_, c);
    case HandleKind::kProxyOp:
      if (const uint32_t parent = proxies_.stop(h); parent != 0) c.proxy_ended(parent);
      return;
    case HandleKind::kLaunch:
      return record(Level::kSpans, {.name = names_.launch, .kind = Kind::kEnd});
    case HandleKind::kUntracked:
    case HandleKind::kCaptured:
    case HandleKind::kMessageCall:
      return;
    default:
      return stale();
  }
}

void Profiler::state(void* handle, int state, const StateArguments* arguments) {
  const Handle h = Handle::unpack(handle);
  if (h.communicator >= kCommunicatorsMax) return stale();
  switch (h.kind) {
    case HandleKind::kKernel:
      if (state == event_state::kKernelChannelStop && arguments != nullptr) {
        communicators_[h.communicator].kernel_time(h, arguments->kernel_channel.timer);
      }
      return;
    case HandleKind::kProxyStep:
      return proxies_.step_state(h, state, arguments);
    case HandleKind::kProxyOp:
      if (const uint32_t parent = proxies_.parent(h);
          parent != 0 && state == event_state::kProxyOpInProgress) {
        communicators_[h.communicator].proxy_moves(parent);
      }
      return;
    case HandleKind::kCall:
    case HandleKind::kOperation:
    case HandleKind::kLaunch:
    case HandleKind::kUntracked:
    case HandleKind::kCaptured:
    case HandleKind::kCopyEngine:
    case HandleKind::kMessageCall:
      return;
    default:
      return stale();
  }
}

}  // namespace convoy::trace::nccl

namespace convoy::trace {

void name_communicator(std::string_view communicator, std::vector<uint32_t> ranks) {
  nccl::Profiler::get().name_communicator(communicator, std::move(ranks));
}

}  // namespace convoy::trace
