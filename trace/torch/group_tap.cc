// From c10d's calls to records. An operation is issued before its backend sees the call, since it
// may hang there; between its two hooks the calling thread keeps it in a Frame.
#include "trace/torch/group_tap.h"

#include "trace/torch/call_facts.h"
#include "trace/torch/operation_names.h"
#include "trace/torch/work_watcher.h"
#include <convoy/trace/recorder.h>

#include <ATen/core/ivalue.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <algorithm>
#include <utility>

namespace convoy::trace {
namespace {

using c10d::HookOpName;

constexpr size_t kBatchMax = 4096;  // a batch that nobody ends doesn't grow for ever

CallMeter meter_before, meter_after, meter_completed;

uint64_t bytes_of(const std::vector<at::Tensor>& tensors) {
  uint64_t bytes = 0;
  for (const at::Tensor& t : tensors) {
    if (t.defined()) bytes += static_cast<uint64_t>(t.numel()) * t.element_size();
  }
  return bytes;
}

// What this rank gives, of which ranks agree also where only the root gives or gets all.
uint64_t bytes_of(const c10d::PreHookArgs& call) {
  if (call.name == HookOpName::SCATTER || call.name == HookOpName::RECV) {
    return bytes_of(call.output_tensors.empty() ? call.input_tensors : call.output_tensors);
  }
  return bytes_of(call.input_tensors.empty() ? call.output_tensors : call.input_tensors);
}

bool differ_in_size(const std::vector<at::Tensor>& tensors) {
  return std::ranges::any_of(
      tensors, [&](const at::Tensor& t) { return t.numel() != tensors.front().numel(); });
}

bool is_uneven(const c10d::PreHookArgs& call, const CallFacts& facts) {
  switch (call.name) {
    case HookOpName::ALLTOALL_BASE:
      return facts.has_splits;
    case HookOpName::ALLTOALL:
      return true;
    case HookOpName::ALLGATHER:
      return differ_in_size(call.output_tensors);
    case HookOpName::REDUCE_SCATTER:
      return differ_in_size(call.input_tensors);
    default:
      return false;
  }
}

const at::Tensor* first_tensor(const c10d::PreHookArgs& call) {
  for (const auto* tensors : {&call.input_tensors, &call.output_tensors}) {
    for (const at::Tensor& t : *tensors) {
      if (t.defined()) return &t;
    }
  }
  return nullptr;
}

// Its Work must not be asked then, and the operation does not run yet.
bool is_captured(const at::Tensor* tensor) {
  if (tensor == nullptr || tensor->device().type() != c10::DeviceType::CUDA) return false;
  const c10::impl::VirtualGuardImpl guard(tensor->device().type());
  return guard.isStreamCapturing(guard.getStream(tensor->device()));
}

bool is_message(HookOpName name) {
  return name == HookOpName::SEND || name == HookOpName::RECV;
}

void record_kind(Kind kind, const Issued& issued, uint64_t value, uint64_t time = 0) {
  record(Level::kCollectives, {.time = time,
                               .value = value,
                               .sequence = issued.sequence,
                               .extra = issued.extra,
                               .name = issued.name,
                               .group = issued.group,
                               .kind = kind});
}

bool has_failed(const c10d::Work& work) {
  return work.exception() != nullptr;
}

}  // namespace

struct GroupTap::Frame {
  const GroupTap* tap = nullptr;
  int64_t call = 0;
  Issued issued;
  c10::DeviceType device = c10::DeviceType::CPU;
  bool recorded = false;  // else it is only counted
  bool taken = false;     // made() has come for it
};

// The calls that a thread is in, innermost last, and what it has issued without getting a Work.
struct GroupTap::Frames {
  std::array<Frame, 8> items;
  size_t depth = 0;
  bool has_batch = false;  // whether batch_of_thread() is worth a look

  Frame& push(const GroupTap* tap, int64_t call) {
    // One of the same group that no Work was made for has thrown.
    if (depth > 0 && items[depth - 1].tap == tap && !items[depth - 1].taken) --depth;
    if (depth == items.size()) {
      std::shift_left(items.begin(), items.end(), 1);
      --depth;
    }
    Frame& frame = items[depth++];
    frame = {};
    frame.tap = tap;
    frame.call = call;
    return frame;
  }

  // The call's frame, which is gone with the next push; null: it was not pushed.
  Frame* pop(const GroupTap* tap, int64_t call) {
    for (size_t i = depth; i-- > 0;) {
      if (items[i].tap != tap || items[i].call != call) continue;
      depth = i;
      return &items[i];
    }
    return nullptr;
  }
};

// Without a destructor, so that access costs no check; what has one is apart.
thread_local constinit GroupTap::Frames GroupTap::frames_;

std::vector<std::pair<const GroupTap*, Issued>>& GroupTap::batch_of_thread() {
  static thread_local std::vector<std::pair<const GroupTap*, Issued>> batch;
  return batch;
}

GroupTap::GroupTap(uint16_t group, std::vector<uint32_t> ranks, const Completions& completions,
                   c10::DeviceType usual_device)
    : group_(group),
      ranks_(std::move(ranks)),
      completions_(completions),
      usual_device_(usual_device),
      messages_(2 * ranks_.size()) {}

void GroupTap::before(const c10d::PreHookArgs& call) {
  const uint64_t begin = meter_before.begin();
  Frame& frame = frames_.push(this, call.op_id);
  frame.recorded = issue(call, frame);
  meter_before.end(begin);
}

// Every call is counted, also one that is not recorded: ranks must agree on the numbers.
bool GroupTap::number(const c10d::PreHookArgs& call, Issued& issued) {
  const bool has_rank = call.root >= 0 && call.root < static_cast<int64_t>(ranks_.size());
  if (has_rank) issued.extra = ranks_[static_cast<size_t>(call.root)] + 1;
  if (!is_message(call.name)) {
    issued.sequence = collectives_.fetch_add(1, std::memory_order_relaxed) + 1;
    return true;
  }
  if (!has_rank) {
    issued.kind = Issued::Kind::kFromAny;
    return call.name == HookOpName::RECV;
  }
  issued.kind = Issued::Kind::kMessage;
  const size_t channel =
      static_cast<size_t>(call.root) + (call.name == HookOpName::RECV ? ranks_.size() : 0);
  issued.sequence = messages_[channel].fetch_add(1, std::memory_order_relaxed) + 1;
  return true;
}

bool GroupTap::issue(const c10d::PreHookArgs& call, Frame& frame) {
  Issued& issued = frame.issued;
  if (!number(call, issued) || !records(Level::kCollectives)) return false;
  const at::Tensor* first = first_tensor(call);
  if (is_captured(first)) return false;
  frame.device = first != nullptr ? first->device().type() : usual_device_;
  const CallFacts& facts = CallFacts::current();
  issued.group = group_;
  issued.name = operation_name(call.name, first != nullptr ? first->scalar_type() : at::kFloat,
                               first != nullptr && call.name != HookOpName::BARRIER, facts,
                               is_uneven(call, facts));
  if (issued.name == 0) return false;
  const uint64_t bytes = call.name == HookOpName::BARRIER ? 0 : bytes_of(call);
  if (issued.kind == Issued::Kind::kFromAny) {
    issued.time = ticks();
    issued.bytes = bytes;
  } else {
    record_kind(Kind::kIssued, issued, bytes);
  }
  return true;
}

void GroupTap::after(const c10d::PostHookArgs& call) {
  const uint64_t begin = meter_after.begin();
  Frame* const frame = frames_.pop(this, call.op_id);
  if (frame != nullptr && frame->recorded && !frame->taken) {
    if (call.work) {
      await(frame->device, call.work, {&frame->issued, 1});
    } else if (!call.async_op && frame->device != c10::DeviceType::CPU) {
      await_stream(frame->device, {frame->issued});
    } else if (batch_of_thread().size() < kBatchMax) {
      frames_.has_batch = true;
      batch_of_thread().emplace_back(this, frame->issued);
    }
  }
  meter_after.end(begin);
}

void GroupTap::await(c10::DeviceType device, const c10::intrusive_ptr<c10d::Work>& work,
                     std::span<const Issued> operations) {
  const auto type = static_cast<size_t>(device);
  Completion how = type < completions_.size() ? completions_[type] : Completion::kWatch;
  const bool has_messages = std::ranges::any_of(
      operations, [](const Issued& i) { return i.kind != Issued::Kind::kCollective; });
  if (how == Completion::kFuture && has_messages) how = Completion::kWatch;
  switch (how) {
    case Completion::kHooks: {
      const uint64_t key = work->getCompletionKey();
      in_flight_.add(key, operations);
      // It may have completed before it was known here; if later, the hook finds it.
      if (work->isCompleted() && !has_failed(*work)) completed({key, std::nullopt});
      return;
    }
    case Completion::kFuture:
      if (await_future(operations.front(), *work)) return;
      break;
    case Completion::kWatch:
      break;
  }
  watch_work(shared_from_this(), work, {operations.begin(), operations.end()});
}

// A blocking call's stream waits for it; there may be no Work then.
void GroupTap::await_stream(c10::DeviceType device, std::vector<Issued> operations) {
  const c10::impl::VirtualGuardImpl guard(device);
  watch_stream(shared_from_this(), guard.getStream(guard.getDevice()), std::move(operations));
}

// False: it has none.
bool GroupTap::await_future(const Issued& issued, c10d::Work& work) {
  const auto bit = uint64_t{1} << (issued.name % 64);
  if ((futureless_.load(std::memory_order_relaxed) & bit) != 0) return false;
  c10::intrusive_ptr<c10::ivalue::Future> future;
  try {
    future = work.getFuture();
  } catch (const c10::Error&) {
    // Asking costs much when the answer is no: not again for operations of this name.
    futureless_.fetch_or(bit, std::memory_order_relaxed);
    return false;
  }
  future->addCallback([tap = shared_from_this(), issued](c10::ivalue::Future& done) {
    if (!done.hasError()) tap->record_completed(issued, 0);
  });
  return true;
}

void GroupTap::completed(const c10d::CompletionHookArgs& completion) {
  const uint64_t begin = meter_completed.begin();
  const uint64_t ns =
      completion.duration_ms ? static_cast<uint64_t>(*completion.duration_ms * 1e6F) : 0;
  in_flight_.take(completion.completionKey,
                  [&](const Issued& issued) { record_completed(issued, ns); });
  meter_completed.end(begin);
}

void GroupTap::record_completed(const Issued& issued, uint64_t ns) const {
  if (issued.sequence != 0) record_kind(Kind::kCompleted, issued, ns);
}

void GroupTap::came_from(Issued& issued, int from) {
  if (issued.kind != Issued::Kind::kFromAny || from < 0 ||
      static_cast<size_t>(from) >= ranks_.size()) {
    return;
  }
  issued.kind = Issued::Kind::kMessage;
  issued.extra = ranks_[static_cast<size_t>(from)] + 1;
  issued.sequence =
      messages_[ranks_.size() + static_cast<size_t>(from)].fetch_add(1, std::memory_order_relaxed) +
      1;
  record_kind(Kind::kIssued, issued, issued.bytes, issued.time);
}

// --- What the backend `convoy` tells.

void GroupTap::made(uint64_t key, bool messages) {
  if (frames_.has_batch) {
    const std::vector<Issued> batch = take_batch(messages, !messages);
    if (!batch.empty()) return in_flight_.add(key, batch);
  }
  if (frames_.depth == 0) return;
  Frame& frame = frames_.items[frames_.depth - 1];
  if (frame.tap != this || frame.taken) return;
  frame.taken = true;
  if (frame.recorded) in_flight_.add(key, {&frame.issued, 1});
}

void GroupTap::started(uint64_t key) {
  in_flight_.update(key, [](const Issued& issued) { record_kind(Kind::kStarted, issued, 0); });
}

void GroupTap::received(uint64_t key, int from) {
  in_flight_.update(key, [&](Issued& issued) { came_from(issued, from); });
}

void GroupTap::dropped(uint64_t key) {
  completed({key, std::nullopt});
}

// --- Batches.

std::vector<Issued> GroupTap::take_batch(bool messages, bool collectives) const {
  std::vector<Issued> taken;
  auto& batch = batch_of_thread();
  std::erase_if(batch, [&](const auto& item) {
    const bool is_collective = item.second.kind == Issued::Kind::kCollective;
    if (item.first != this || !(is_collective ? collectives : messages)) return false;
    taken.push_back(item.second);
    return true;
  });
  frames_.has_batch = !batch.empty();
  return taken;
}

void GroupTap::batch_ended(const c10::intrusive_ptr<c10d::Work>& work) {
  if (!frames_.has_batch) return;
  std::vector<Issued> batch = take_batch(true, true);
  if (batch.empty()) return;
  if (work) {
    await(usual_device_, work, batch);
  } else if (usual_device_ != c10::DeviceType::CPU) {
    await_stream(usual_device_, std::move(batch));
  }
}

}  // namespace convoy::trace
