#include "tests/trace/nccl_driver.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <unistd.h>

namespace convoy::trace::nccl {

Trace::Trace(Level level) {
  const auto opened =
      open_recorder({.rings = 64, .ring_records = 1 << 15, .rank = 5, .world_size = 16}, level);
  REQUIRE(opened.ok());
  segment = *opened;
  for (uint32_t i = 0; i < segment->rings(); ++i) {
    readers_.push_back(std::make_unique<RingReader>(segment, i));
  }
  (void)read();
}

std::vector<Seen> Trace::read() {
  std::vector<Seen> seen;
  for (const auto& reader : readers_) {
    std::vector<Record> records;
    reader->read(records);
    for (const Record& r : records) {
      if (r.kind == Kind::kThread) continue;
      seen.push_back({r.kind, segment->name(r.name), segment->name(r.group), r.sequence, r.extra,
                      r.value, r.time});
    }
  }
  return seen;
}

std::string lines_of(const std::vector<Seen>& records) {
  std::string text;
  for (const Seen& r : records) {
    if (r.kind < Kind::kIssued) continue;
    text += r.kind == Kind::kIssued    ? "issued "
            : r.kind == Kind::kStarted ? "started "
                                       : "completed ";
    text += r.name + " " + std::to_string(r.sequence) + "\n";
  }
  return text;
}

const Seen& only(const std::vector<Seen>& records, Kind kind, size_t at) {
  size_t n = 0;
  for (const Seen& r : records) {
    if (r.kind == kind && n++ == at) return r;
  }
  FAIL("no such record");
  return records.front();
}

size_t count_of(const std::vector<Seen>& records, Kind kind) {
  return static_cast<size_t>(
      std::count_if(records.begin(), records.end(), [&](const Seen& r) { return r.kind == kind; }));
}

uint64_t counter_of(const std::vector<Seen>& records, const std::string& name, uint32_t extra) {
  uint64_t value = UINT64_MAX;
  for (const Seen& r : records) {
    if (r.kind == Kind::kCounter && r.name == name && r.extra == extra) value = r.value;
  }
  return value;
}

uint64_t gpu_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return 1'795'674'854'779'070'304 + static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(now.tv_nsec);
}

FakeNccl::~FakeNccl() {
  while (!open_.empty()) close(open_.back());
}

void* FakeNccl::open(uint64_t id, int size, int rank, const char* name) {
  void* context = nullptr;
  REQUIRE(plugin_.init(&context, id, &mask, name, 1, size, rank, nullptr) == 0);
  REQUIRE(context != nullptr);
  open_.push_back(context);
  return context;
}

void FakeNccl::close(void* context) {
  open_.erase(std::remove(open_.begin(), open_.end(), context), open_.end());
  REQUIRE(plugin_.finalize(context) == 0);
}

void* FakeNccl::start(void* context, const Description& d) {
  void* handle = nullptr;
  Description copy = d;
  plugin_.start(context, &handle, &copy);
  return handle;
}

void FakeNccl::state(void* handle, int state, uint64_t value) {
  StateArguments arguments{};
  arguments.kernel_channel.timer = value;
  plugin_.state(handle, state, &arguments);
}

void* FakeNccl::call(void* context, const char* function, size_t count, const char* dtype, int root,
                     bool captured) {
  Description d{};
  d.type = event::kCollectiveCall;
  d.collective_call.function = function;
  d.collective_call.count = count;
  d.collective_call.dtype = dtype;
  d.collective_call.root = root;
  d.collective_call.graph_captured = captured;
  return start(context, d);
}

void* FakeNccl::collective(void* context, void* parent, const char* function, size_t count,
                           uint8_t channels) {
  Description d{};
  d.type = event::kCollective;
  d.parent = parent;
  d.collective.function = function;
  d.collective.count = count;
  d.collective.dtype = "ncclFloat32";
  d.collective.channels = channels;
  return start(context, d);
}

void* FakeNccl::message_call(void* context, const char* function, bool captured) {
  Description d{};
  d.type = event::kMessageCall;
  d.message_call.function = function;
  d.message_call.graph_captured = captured;
  return start(context, d);
}

void* FakeNccl::message(void* context, void* parent, const char* function, int peer, size_t count,
                        uint8_t channels) {
  Description d{};
  d.type = event::kMessage;
  d.parent = parent;
  d.message.function = function;
  d.message.dtype = "ncclBfloat16";
  d.message.count = count;
  d.message.peer = peer;
  d.message.channels = channels;
  return start(context, d);
}

void* FakeNccl::kernel(void* context, void* parent, int channel, uint64_t timer) {
  Description d{};
  d.type = event::kKernelChannel;
  d.parent = parent;
  d.kernel_channel.channel = static_cast<uint8_t>(channel);
  d.kernel_channel.timer = timer;
  return start(context, d);
}

void FakeNccl::end_kernel(void* handle, uint64_t timer) {
  state(handle, event_state::kKernelChannelStop, timer);
  stop(handle);
}

void* FakeNccl::proxy(void* context, void* parent, int peer, int channel, bool is_send, int pid) {
  Description d{};
  d.type = event::kProxyOp;
  d.parent = parent;
  d.proxy_op.pid = pid == 0 ? ::getpid() : pid;
  d.proxy_op.channel = static_cast<uint8_t>(channel);
  d.proxy_op.peer = peer;
  d.proxy_op.is_send = is_send ? 1 : 0;
  return start(context, d);
}

void* FakeNccl::step(void* context, void* parent, int number) {
  Description d{};
  d.type = event::kProxyStep;
  d.parent = parent;
  d.proxy_step.step = number;
  return start(context, d);
}

void* FakeNccl::run(void* context, const char* function, size_t count) {
  void* api = call(context, function, count);
  stop(api);
  void* coll = collective(context, api, function, count);
  stop(coll);
  void* k = kernel(context, coll, 0, gpu_now());
  end_kernel(k, gpu_now());
  return coll;
}

}  // namespace convoy::trace::nccl
