// What NCCL's proxy progress thread tells, without a network: send steps wait for the kernel
// (SendGPUWait), then for the peers (SendPeerWait), then for the data (SendWait); receive steps for
// the peers (RecvWait) and the data. Up to eight steps of 512 KiB are under way at once. Where NCCL
// spins, this sleeps until a kernel says that something has changed.
#include "src/standin/nccl/profiler_proxy.h"

#include <algorithm>
#include <ctime>
#include <numeric>

namespace convoy::standin::nccl {
namespace {

constexpr int kProxyEvents = kEventProxyOp | kEventProxyStep | kEventNetPlugin;
constexpr int kStepEvents = kEventProxyStep | kEventNetPlugin;
constexpr auto kNap = std::chrono::milliseconds(50);  // between looks, in case a notice is lost
constexpr auto kEndLimit = std::chrono::seconds(10);  // for what is left when it ends in order
constexpr uint64_t kTimerTick = 32;                   // ns, the resolution of a GPU's globaltimer
constexpr uint64_t kTimerOffsetMax = 4'000'000;       // ns
constexpr uint64_t kTimerDriftMax = 100;              // ppm

uint64_t mixed(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

size_t divided_up(size_t a, size_t b) {
  return (a + b - 1) / b;
}

}  // namespace

// A ProxyCtrl event; the mask is read again for each call.
class ProxyThread::Control {
 public:
  explicit Control(void* context) {
    if (!is_wanted()) return;
    const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
    if (!plugin) return;
    EventDescription event{};
    event.type = kEventProxyCtrl;
    (void)plugin->start_event(context, &handle_, &event);
  }
  ~Control() {
    if (handle_ == nullptr) return;
    if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
      (void)plugin->stop_event(handle_);
    }
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;
  void record(int state, int appended = 0) {
    if (handle_ == nullptr || !is_wanted()) return;
    StateArguments arguments{};
    arguments.proxy_ctrl.appended = appended;
    if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
      (void)plugin->record_state(handle_, state, &arguments);
    }
  }

 private:
  static bool is_wanted() { return (ProfilerPlugin::get().mask() & kEventProxyCtrl) != 0; }
  void* handle_ = nullptr;
};

ProxyThread::ProxyThread(const ProfilerIdentity& identity, void* context)
    : identity_(identity), context_(context), ring_order_(identity.nodes.size()) {
  std::iota(ring_order_.begin(), ring_order_.end(), 0);
  const auto node = [&](int rank) { return identity_.nodes[static_cast<size_t>(rank)]; };
  std::stable_sort(ring_order_.begin(), ring_order_.end(),
                   [&](int a, int b) { return node(a) < node(b); });
  const auto n = ring_order_.size();
  const auto me = static_cast<size_t>(
      std::find(ring_order_.begin(), ring_order_.end(), identity_.rank) - ring_order_.begin());
  previous_ = ring_order_[(me + n - 1) % n];
  next_ = ring_order_[(me + 1) % n];
}

ProxyThread::~ProxyThread() {
  stop(true);
}

// --- What there is to do for a task.

bool ProxyThread::needs_edge(const TracedTask& task, bool is_send, int peer) const {
  const int me = identity_.rank;
  if (identity_.nodes[static_cast<size_t>(peer)] == identity_.nodes[static_cast<size_t>(me)]) {
    return false;
  }
  // Rooted ones pass along the ring from the root, or to it.
  if (task.function == Function::broadcast) return task.root != (is_send ? peer : me);
  if (task.function == Function::reduce) return task.root != (is_send ? me : peer);
  return true;
}

size_t ProxyThread::edge_bytes(const TracedTask& task) const {
  const auto others = static_cast<size_t>(identity_.nranks - 1);
  switch (task.function) {
    case Function::all_reduce:
      return 2 * others * task.bytes / (others + 1);
    case Function::all_gather:
    case Function::reduce_scatter:
      return others * task.bytes;
    default:
      return task.bytes;
  }
}

void ProxyThread::add_parts(const std::shared_ptr<TracedTask>& task,
                            std::vector<Part>& parts) const {
  const size_t bytes = divided_up(edge_bytes(*task), static_cast<size_t>(task->channels));
  for (int channel = 0; channel < task->channels; ++channel) {
    const auto add_edge = [&](bool is_send, int peer) {
      if ((task->mask & (kProxyEvents | kEventProxyCtrl)) == 0 || !needs_edge(*task, is_send, peer))
        return;
      Part part;
      part.task = task;
      part.is_send = is_send;
      part.channel = channel;
      part.peer = peer;
      part.bytes = bytes;
      part.steps = static_cast<int>(std::max<size_t>(1, divided_up(bytes, kChunkBytes)));
      parts.push_back(std::move(part));
    };
    if (task->is_p2p()) {
      add_edge(task->function == Function::send, task->root);
    } else {
      add_edge(false, previous_);
      add_edge(true, next_);
    }
    if ((task->mask & kEventKernelCh) == 0) continue;
    Part part;
    part.task = task;
    part.is_kernel = true;
    part.channel = channel;
    parts.push_back(std::move(part));
  }
}

void ProxyThread::post(const std::vector<std::shared_ptr<TracedTask>>& tasks) {
  std::vector<Part> parts;
  for (const auto& task : tasks) add_parts(task, parts);
  if (parts.empty()) return;
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  for (Part& part : parts) posted_.push_back(std::move(part));
  ++notified_;
  if (!thread_.joinable()) thread_ = std::thread([this] { main(); });
  changed_.notify_all();
}

void ProxyThread::notify() {
  const std::lock_guard lock(mutex_);
  ++notified_;
  changed_.notify_all();
}

void ProxyThread::stop(bool aborted) {
  std::thread thread;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    aborted_ |= aborted;
    ++notified_;
    changed_.notify_all();
    thread.swap(thread_);
  }
  if (thread.joinable()) thread.join();
}

// --- Kernel times.

uint64_t ProxyThread::device_time() const {
  const uint64_t seed = mixed(identity_.clock_seed);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const auto ns =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  // Drifts since the last full hour or so, both ways.
  const auto since = static_cast<double>(ns % 3'600'000'000'000);
  const double ppm = static_cast<double>(seed % (2 * kTimerDriftMax)) - double{kTimerDriftMax};
  const auto drift = static_cast<int64_t>(since * ppm * 1e-6);
  const uint64_t offset = (seed >> 32) % kTimerOffsetMax;
  return (ns + offset + static_cast<uint64_t>(drift)) / kTimerTick * kTimerTick;
}

void ProxyThread::stamp(Ring& ring, const TracedBatch& batch) {
  const uint64_t time = device_time();
  for (const auto& task : batch.tasks) {
    if ((task->mask & kEventKernelCh) == 0) continue;
    for (size_t c = 0; c < static_cast<size_t>(task->channels); ++c) {
      Slot& slot = ring[c][task->work[c] % kWorkSlots];
      slot.time.store(time, std::memory_order_relaxed);
      slot.counter.store(task->work[c], std::memory_order_release);
    }
  }
}

// --- The thread.

void ProxyThread::main() {
  bool was_idle = false;
  for (;;) {
    const bool idle = !progress();
    if (idle != was_idle) {
      Control control(context_);
      control.record(idle ? kStateProxyIdle : kStateProxyActive);
    }
    was_idle = idle;
    if (idle && !get_posted()) return;
  }
}

// Takes up what has been posted; with nothing of it, waits. The thread ends at an abort, or when
// all is done.
bool ProxyThread::get_posted() {
  bool sleeps = false;
  {
    std::unique_lock lock(mutex_);
    if (aborted_ || (stopping_ && posted_.empty() && active_.empty())) return false;
    if (posted_.empty() && !active_.empty()) {
      const auto changed = [&] { return notified_ != seen_ || !posted_.empty(); };
      (void)changed_.wait_for(lock, kNap, changed);
      seen_ = notified_;
      if (posted_.empty()) return keeps_waiting();
    }
    sleeps = posted_.empty();
  }
  if (sleeps) sleep();
  std::deque<Part> posted;
  {
    const std::lock_guard lock(mutex_);
    posted.swap(posted_);
    seen_ = notified_;
  }
  Control control(context_);
  control.record(kStateProxyAppend);
  const int n = static_cast<int>(posted.size());
  for (Part& part : posted) {
    if (!append(std::move(part))) return false;
  }
  control.record(kStateProxyAppendEnd, n);
  return true;
}

void ProxyThread::sleep() {
  Control control(context_);
  control.record(kStateProxySleep);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !posted_.empty() || stopping_; });
  lock.unlock();
  control.record(kStateProxyWakeup);
}

bool ProxyThread::keeps_waiting() {
  if (!stopping_) return true;
  // Ends in order: the kernels are done, so all can go on. A kernel that gave up never will.
  const auto now = std::chrono::steady_clock::now();
  if (end_by_ == std::chrono::steady_clock::time_point{}) end_by_ = now + kEndLimit;
  return now < end_by_;
}

bool ProxyThread::append(Part part) {
  if (const int64_t delay = part.task->delay_ns.exchange(0); delay > 0) {
    std::unique_lock lock(mutex_);
    (void)changed_.wait_for(lock, std::chrono::nanoseconds(delay), [&] { return aborted_; });
    if (aborted_) return false;
  }
  if (!part.is_kernel && (part.task->mask & kProxyEvents) != 0) {
    EventDescription event{};
    event.type = kEventProxyOp;
    event.parent = part.task->handle;
    event.rank = identity_.rank;
    event.proxy_op.pid = ProfilerPlugin::get().pid();
    event.proxy_op.channel = static_cast<uint8_t>(part.channel);
    event.proxy_op.peer = part.peer;
    event.proxy_op.steps = part.steps;
    event.proxy_op.chunk_bytes = static_cast<int>(kChunkBytes);
    event.proxy_op.is_send = part.is_send ? 1 : 0;
    if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
      (void)plugin->start_event(context_, &part.handle, &event);
    }
  }
  active_.push_back(std::move(part));
  return true;
}

// One pass over all that is under way. False: nothing has changed.
bool ProxyThread::progress() {
  bool moved = false;
  for (Part& part : active_) {
    if (part.is_kernel) {
      moved |= progress_kernel(part);
    } else {
      moved |= part.is_send ? progress_send(part) : progress_recv(part);
    }
  }
  active_.remove_if([](const Part& part) { return part.finished; });
  return moved;
}

bool ProxyThread::progress_kernel(Part& part) {
  const auto channel = static_cast<size_t>(part.channel);
  const uint64_t work = part.task->work[channel];
  // As NCCL: a slot that has been written again since passes for this work's.
  const Slot& slot = (part.kernel_started ? completed_ : started_)[channel][work % kWorkSlots];
  if (slot.counter.load(std::memory_order_acquire) < work) return false;
  const uint64_t time = slot.time.load(std::memory_order_relaxed);
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  if (!part.kernel_started) {
    part.kernel_started = true;
    EventDescription event{};
    event.type = kEventKernelCh;
    event.parent = part.task->handle;
    event.kernel_ch.channel = static_cast<uint8_t>(part.channel);
    event.kernel_ch.timer = time;
    if (plugin) (void)plugin->start_event(context_, &part.handle, &event);
    return true;
  }
  part.finished = true;
  if (!plugin || part.handle == nullptr) return true;
  StateArguments arguments{};
  arguments.kernel_ch.timer = time;
  (void)plugin->record_state(part.handle, kStateKernelChStop, &arguments);
  (void)plugin->stop_event(part.handle);
  return true;
}

bool ProxyThread::progress_send(Part& part) {
  if (begin_part(part)) return true;
  if (part.posted < part.steps && part.posted < part.done + kStepsAhead) {
    begin_step(part, kStateSendGpuWait);
    return true;
  }
  if (part.waiting < part.posted && part.task->started) {
    record_step(part, part.waiting++, kStateSendPeerWait);
    return true;
  }
  if (part.transferred < part.waiting && part.task->met) {
    part.transferred_bytes = step_bytes(part, part.transferred);
    record_step(part, part.transferred++, kStateSendWait);
    return true;
  }
  return part.done < part.transferred && part.task->moved && end_step(part);
}

bool ProxyThread::progress_recv(Part& part) {
  if (begin_part(part)) return true;
  if (part.posted < part.steps && part.posted < part.done + kStepsAhead) {
    begin_step(part, kStateRecvWait);
    return true;
  }
  if (part.waiting < part.posted && part.task->met) {
    part.transferred_bytes = step_bytes(part, part.waiting);
    record_step(part, part.waiting++, kStateRecvFlushWait);
    return true;
  }
  if (part.transferred < part.waiting) {
    record_step(part, part.transferred++, kStateRecvGpuWait);
    return true;
  }
  return part.done < part.transferred && part.task->moved && end_step(part);
}

bool ProxyThread::begin_part(Part& part) {
  if (part.in_progress) return false;
  part.in_progress = true;
  StateArguments arguments{};
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  if (plugin && part.handle != nullptr) {
    (void)plugin->record_state(part.handle, kStateProxyOpInProgress, &arguments);
  }
  return true;
}

void ProxyThread::begin_step(Part& part, int state) {
  void*& handle = part.step_handles[static_cast<size_t>(part.posted % kStepsAhead)];
  if ((part.task->mask & kStepEvents) != 0) {
    EventDescription event{};
    event.type = kEventProxyStep;
    event.parent = part.handle;
    event.rank = identity_.rank;
    event.proxy_step.step = part.posted;
    if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
      (void)plugin->start_event(context_, &handle, &event);
    }
  }
  record_step(part, part.posted++, state);
}

void ProxyThread::record_step(Part& part, int step, int state) {
  void* handle = part.step_handles[static_cast<size_t>(step % kStepsAhead)];
  if (handle == nullptr || part.handle == nullptr) return;
  StateArguments arguments{};
  arguments.proxy_step.bytes = part.transferred_bytes;
  if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
    (void)plugin->record_state(handle, state, &arguments);
  }
}

bool ProxyThread::end_step(Part& part) {
  void*& handle = part.step_handles[static_cast<size_t>(part.done % kStepsAhead)];
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  if (plugin && handle != nullptr) (void)plugin->stop_event(handle);
  handle = nullptr;
  if (++part.done < part.steps) return true;
  if (plugin && part.handle != nullptr) (void)plugin->stop_event(part.handle);
  part.finished = true;
  return true;
}

size_t ProxyThread::step_bytes(const Part& part, int step) const {
  const size_t before = static_cast<size_t>(step) * kChunkBytes;
  return part.bytes > before ? std::min(kChunkBytes, part.bytes - before) : 0;
}

}  // namespace convoy::standin::nccl
