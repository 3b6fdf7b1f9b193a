// The calling thread's side. What is odd here is odd in NCCL 2.30.7:
// - The mask is latched at each call; a group's event starts with its first call.
// - The depth that ends a group's event counts outermost calls, but not nested ncclGroupStart.
// - A CollApi handle stays in the thread and is stopped again by calls that don't start one.
// - AllGather and Broadcast have their bytes as count in Coll, and their elements in CollApi.
// - Broadcast loses its mask on its way (NCCL_ALLGATHERV_ENABLE, on by default): CollApi is all.
// - AlltoAll, Gather and Scatter are messages. One rank's collectives and one-sided operations are
//   not told at all.
// - Coll and P2p stop when the proxy has got its work, not when the operation is done.
#include "src/standin/nccl/profiler.h"

#include "src/standin/nccl/profiler_proxy.h"

#include <algorithm>
#include <cstdlib>

namespace convoy::standin::nccl {
namespace {

constexpr size_t kSmallBytes = 64 << 10;  // goes over one channel
constexpr uint8_t kWarps = 16;

constexpr int kProxyEvents = kEventProxyOp | kEventProxyStep | kEventNetPlugin;
constexpr int kCopyEngineEvents = kEventCeColl | kEventCeSync | kEventCeBatch;
constexpr int kCollEvents = kEventColl | kProxyEvents | kEventKernelCh;
constexpr int kP2pEvents = kEventP2p | kProxyEvents | kEventKernelCh;
constexpr int kGroupEvents = kEventGroup | kCollEvents | kP2pEvents;
constexpr int kCollApiEvents = kEventCollApi | kCollEvents | kCopyEngineEvents;
constexpr int kP2pApiEvents = kEventP2pApi | kP2pEvents;
constexpr int kGroupApiEvents =
    kEventGroupApi | kCollApiEvents | kP2pApiEvents | kEventKernelLaunch | kEventGroup;

enum class GroupState { none, started, start_stopped };

// Of the calling thread.
struct ApiState {
  int depth = 0;
  int mask = 0;
  GroupState state = GroupState::none;
  void* group = nullptr;
  void* coll = nullptr;
  void* p2p = nullptr;
};

ApiState& api() {
  thread_local ApiState mine;
  return mine;
}

const char* type_name(uint32_t dtype) {
  static constexpr std::array kNames = {"ncclInt8",     "Unknown",        "ncclInt32",
                                        "ncclUint32",   "ncclInt64",      "ncclUint64",
                                        "ncclFloat16",  "ncclFloat32",    "ncclFloat64",
                                        "ncclBfloat16", "ncclFloat8e4m3", "ncclFloat8e5m2"};
  return dtype < kNames.size() ? kNames[dtype] : "Unknown";
}

size_t type_bytes(uint32_t dtype) {
  static constexpr std::array<size_t, 12> kBytes = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return dtype < kBytes.size() ? kBytes[dtype] : 1;
}

bool counts_bytes(Function function) {
  return function == Function::all_gather || function == Function::broadcast;
}

bool broadcast_has_events() {
  static const bool has = [] {
    const char* text = std::getenv("NCCL_ALLGATHERV_ENABLE");
    return text != nullptr && *text == '0';
  }();
  return has;
}

void start_group(const ProfilerPlugin::Use& plugin, void* context, int depth) {
  ApiState& state = api();
  state.mask = ProfilerPlugin::get().mask();
  if ((state.mask & kGroupApiEvents) != 0 && state.depth == 0) {
    EventDescription event{};
    event.type = kEventGroupApi;
    event.group_api.depth = depth;
    (void)plugin->start_event(context, &state.group, &event);
    state.depth = depth;
    state.state = GroupState::started;
  }
  if (state.state != GroupState::started) return;
  state.state = GroupState::start_stopped;
  if (state.group != nullptr) {
    (void)plugin->record_state(state.group, kStateGroupStartApiStop, nullptr);
  }
}

}  // namespace

Profiler::Profiler(ProfilerIdentity identity) : identity_(std::move(identity)) {
  const int nodes = 1 + *std::max_element(identity_.nodes.begin(), identity_.nodes.end());
  opened_ = ProfilerPlugin::get().open(
      &context_, identity_.comm_id,
      identity_.comm_name.empty() ? nullptr : identity_.comm_name.c_str(), nodes, identity_.nranks,
      identity_.rank);
  // A plugin that refuses this communicator and has others gets its events without a context.
  if (ProfilerPlugin::get().is_loaded())
    proxy_ = std::make_unique<ProxyThread>(identity_, context_);
}

Profiler::~Profiler() {
  close(true);
}

void Profiler::close(bool aborted) {
  if (closed_.exchange(true)) return;
  if (proxy_) proxy_->stop(aborted);
  if (opened_) ProfilerPlugin::get().close(context_);
}

// --- Groups.

void Profiler::call_begins() {
  if (api().depth > 0) ++api().depth;
}

void Profiler::group_ending() {
  ApiState& state = api();
  if (state.depth > 0) --state.depth;
  if (state.depth > 0 || state.state != GroupState::start_stopped) return;
  state.state = GroupState::none;
  if (state.group == nullptr) return;
  if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
    (void)plugin->record_state(state.group, kStateGroupEndApiStart, nullptr);
  }
}

void Profiler::group_ended() {
  ApiState& state = api();
  if (state.group == nullptr || state.depth > 0) return;
  if (const ProfilerPlugin::Use plugin(ProfilerPlugin::get()); plugin) {
    (void)plugin->stop_event(state.group);
    state.group = nullptr;
  }
}

// --- Calls.

void Profiler::enqueue(const OpRecord& op, void* stream, int depth, OperationTrace& trace) {
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  // No proxy: no plugin was there, or wanted this communicator, when it was made.
  if (!plugin || !proxy_ || !is_open() || op.function > Function::recv) return;
  const bool is_message = op.function == Function::send || op.function == Function::recv;
  if (identity_.nranks == 1 && !is_message) return;
  const auto start = [&] { start_group(plugin, context_, depth); };
  const auto message = [&](Function function, uint64_t buffer, int peer) {
    start();
    OpRecord one = op;
    one.function = function;
    one.root = peer;
    (function == Function::send ? one.send : one.recv) = buffer;
    trace_message(plugin, one, stream, trace);
  };
  const uint64_t block = op.count * type_bytes(op.dtype);
  const auto at = [&](uint64_t base, int rank) {
    return base + static_cast<uint64_t>(rank) * block;
  };
  const bool is_root = op.root == identity_.rank;
  switch (op.function) {
    case Function::send:
      return message(op.function, op.send, op.root);
    case Function::recv:
      return message(op.function, op.recv, op.root);
    case Function::all_to_all:
      for (int r = 0; r < identity_.nranks; ++r) {
        message(Function::send, at(op.send, r), r);
        message(Function::recv, at(op.recv, r), r);
      }
      return;
    case Function::gather:
      message(Function::send, op.send, op.root);
      for (int r = 0; is_root && r < identity_.nranks; ++r) {
        message(Function::recv, at(op.recv, r), r);
      }
      return;
    case Function::scatter:
      for (int r = 0; is_root && r < identity_.nranks; ++r) {
        message(Function::send, at(op.send, r), r);
      }
      return message(Function::recv, op.recv, op.root);
    default:
      start();
      return trace_collective(plugin, op, stream, trace);
  }
}

void Profiler::trace_collective(const ProfilerPlugin::Use& plugin, const OpRecord& op, void* stream,
                                OperationTrace& trace) {
  ApiState& state = api();
  if ((state.mask & kCollApiEvents) != 0) {
    EventDescription event{};
    event.type = kEventCollApi;
    event.parent = state.group;
    event.coll_api.function = name_of(op.function);
    event.coll_api.count = op.count;
    event.coll_api.dtype = type_name(op.dtype);
    event.coll_api.root = std::max(op.root, 0);
    event.coll_api.stream = stream;
    (void)plugin->start_event(context_, &state.coll, &event);
  }
  auto task = std::make_shared<TracedTask>();
  const bool has_events = op.function != Function::broadcast || broadcast_has_events();
  task->mask = has_events ? state.mask : 0;
  task->group_api = has_events ? state.group : nullptr;
  task->api = has_events ? state.coll : nullptr;
  task->function = op.function;
  task->send = reinterpret_cast<const void*>(op.send);
  task->recv = reinterpret_cast<void*>(op.recv);
  task->count = counts_bytes(op.function) ? op.count * type_bytes(op.dtype) : op.count;
  task->dtype = counts_bytes(op.function) ? 0 : op.dtype;
  task->root = std::max(op.root, 0);
  task->bytes = op.count * type_bytes(op.dtype);
  task->channels = task->bytes > kSmallBytes ? kChannelsMax : 1;
  trace.tasks.push_back(std::move(task));
  if (state.coll != nullptr) (void)plugin->stop_event(state.coll);
}

void Profiler::trace_message(const ProfilerPlugin::Use& plugin, const OpRecord& op, void* stream,
                             OperationTrace& trace) {
  ApiState& state = api();
  if ((state.mask & kP2pApiEvents) != 0) {
    EventDescription event{};
    event.type = kEventP2pApi;
    event.parent = state.group;
    event.p2p_api.function = name_of(op.function);
    event.p2p_api.count = op.count;
    event.p2p_api.dtype = type_name(op.dtype);
    event.p2p_api.stream = stream;
    (void)plugin->start_event(context_, &state.p2p, &event);
  }
  auto task = std::make_shared<TracedTask>();
  task->mask = state.mask;
  task->group_api = state.group;
  task->api = state.p2p;
  task->function = op.function;
  task->recv = reinterpret_cast<void*>(op.function == Function::send ? op.send : op.recv);
  task->count = op.count;
  task->dtype = op.dtype;
  task->root = op.root;
  task->bytes = op.count * type_bytes(op.dtype);
  task->channels = task->bytes > kSmallBytes ? kChannelsMax : 1;
  trace.tasks.push_back(std::move(task));
  if (state.p2p != nullptr) (void)plugin->stop_event(state.p2p);
  state.p2p = nullptr;
}

// --- Launches.

void TracedLaunch::add(const OpRecord& op, OperationTrace& trace) {
  if (trace.tasks.empty()) return;
  const bool is_message = op.function == Function::send || op.function == Function::recv;
  const bool goes_on = last_batch_ != nullptr && last_.function == op.function &&
                       last_.dtype == op.dtype && last_.redop == op.redop;
  std::shared_ptr<TracedBatch>& batch = is_message ? message_batch_ : last_batch_;
  if (batch == nullptr || (!is_message && !goes_on)) batch = std::make_shared<TracedBatch>();
  if (!is_message) last_ = op;
  ++batch->left;
  trace.batch = batch;
  for (const auto& task : trace.tasks) {
    for (int c = 0; c < task->channels; ++c) {
      task->work[static_cast<size_t>(c)] = ++profiler_.works_[static_cast<size_t>(c)];
    }
    batch->tasks.push_back(task);
    (task->is_p2p() ? p2ps_ : colls_).push_back(task);
  }
}

// The first task that has a mask decides for the kernel.
const TracedTask* TracedLaunch::first_masked() const {
  for (const auto* tasks : {&colls_, &p2ps_}) {
    for (const auto& task : *tasks) {
      if (task->mask != 0) return task.get();
    }
  }
  return nullptr;
}

void TracedLaunch::begin() {
  const TracedTask* first = first_masked();
  if (first == nullptr || (first->mask & kEventKernelLaunch) == 0) return;
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  if (!plugin || !profiler_.is_open()) return;
  EventDescription event{};
  event.type = kEventKernelLaunch;
  event.parent = first->group_api;
  event.kernel_launch.stream = stream_;
  (void)plugin->start_event(profiler_.context_, &kernel_launch_, &event);
}

void TracedLaunch::end() {
  if (colls_.empty() && p2ps_.empty()) return;
  const ProfilerPlugin::Use plugin(ProfilerPlugin::get());
  if (!plugin || !profiler_.is_open()) return;
  if (kernel_launch_ != nullptr) (void)plugin->stop_event(kernel_launch_);
  void* group = nullptr;
  const TracedTask* first = first_masked();
  if (first != nullptr && (first->mask & kGroupEvents) != 0) {
    EventDescription event{};
    event.type = kEventGroup;
    (void)plugin->start_event(profiler_.context_, &group, &event);
  }
  start_colls(plugin, group);
  start_p2ps(plugin, group);
  std::vector<std::shared_ptr<TracedTask>> tasks = colls_;
  tasks.insert(tasks.end(), p2ps_.begin(), p2ps_.end());
  if (profiler_.proxy_) profiler_.proxy_->post(tasks);
  for (const auto& task : tasks) {
    if (task->handle != nullptr) (void)plugin->stop_event(task->handle);
  }
  if (group != nullptr) (void)plugin->stop_event(group);
}

void TracedLaunch::start_colls(const ProfilerPlugin::Use& plugin, void* group) {
  // Broadcasts of several roots in one group aren't counted by NCCL.
  int root = -1;
  bool several_roots = false;
  for (const auto& task : colls_) {
    if (task->function != Function::broadcast) continue;
    several_roots |= root >= 0 && root != task->root;
    root = task->root;
  }
  for (const auto& task : colls_) {
    uint64_t& sequence = profiler_.sequences_[static_cast<size_t>(task->function)];
    if ((task->mask & kCollEvents) != 0) {
      EventDescription event{};
      event.type = kEventColl;
      event.parent = task->api;
      event.rank = profiler_.identity_.rank;
      event.coll.sequence = sequence;
      event.coll.function = name_of(task->function);
      event.coll.send = task->send;
      event.coll.recv = task->recv;
      event.coll.count = task->count;
      event.coll.root = task->root;
      event.coll.dtype = type_name(task->dtype);
      event.coll.channels = static_cast<uint8_t>(task->channels);
      event.coll.warps = kWarps;
      event.coll.algorithm = "RING";
      event.coll.protocol = "SIMPLE";
      event.coll.parent_group = group;
      (void)plugin->start_event(profiler_.context_, &task->handle, &event);
    }
    const bool uncounted =
        task->function == Function::broadcast && several_roots && !broadcast_has_events();
    if (!uncounted) ++sequence;
  }
}

void TracedLaunch::start_p2ps(const ProfilerPlugin::Use& plugin, void* group) {
  for (const auto& task : p2ps_) {
    if ((task->mask & kP2pEvents) == 0) continue;
    EventDescription event{};
    event.type = kEventP2p;
    event.parent = task->api;
    event.rank = profiler_.identity_.rank;
    event.p2p.function = name_of(task->function);
    event.p2p.buffer = task->recv;
    event.p2p.dtype = type_name(task->dtype);
    event.p2p.count = task->count;
    event.p2p.peer = task->root;
    event.p2p.channels = static_cast<uint8_t>(task->channels);
    event.p2p.parent_group = group;
    (void)plugin->start_event(profiler_.context_, &task->handle, &event);
  }
}

// --- Kernels.

void Profiler::started(const OperationTrace& trace) {
  if (trace.batch == nullptr || trace.batch->started) return;
  trace.batch->started = true;
  proxy_->stamp_start(*trace.batch);
  for (const auto& task : trace.batch->tasks) task->started = true;
  proxy_->notify();
}

void Profiler::met(const OperationTrace& trace) {
  if (trace.batch == nullptr) return;
  for (const auto& task : trace.tasks) task->met = true;
  proxy_->notify();
}

void Profiler::moved(const OperationTrace& trace) {
  if (trace.batch == nullptr) return;
  for (const auto& task : trace.tasks) task->moved = true;
  proxy_->notify();
}

void Profiler::done(const OperationTrace& trace) {
  if (trace.batch == nullptr || --trace.batch->left > 0) return;
  proxy_->stamp_end(*trace.batch);
  proxy_->notify();
}

void Profiler::delay_proxy(const OperationTrace& trace, std::chrono::nanoseconds by) {
  if (!trace.tasks.empty()) trace.tasks.front()->delay_ns = by.count();
}

}  // namespace convoy::standin::nccl
