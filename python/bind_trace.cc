// The tracer for Python: what trace.py is made of.
#include "python/bindings.h"
#include "python/status_error.h"
#include <convoy/trace/recorder.h>
#include <convoy/trace/torch/attach.h>

#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <pybind11/stl.h>
#include <string>
#include <tuple>
#include <vector>

namespace convoy::python {
namespace {

using trace::Kind;
using trace::Level;
using trace::Record;

// Of this process; null before it is open.
std::shared_ptr<trace::Segment>& segment() {
  static auto* const the = new std::shared_ptr<trace::Segment>;
  return *the;
}

Level level_of(const std::string& name) {
  const auto level = trace::level_of(name);
  if (level) return *level;
  throw pybind11::value_error("there is no trace level '" + name +
                              "'; take off, collectives, spans or details");
}

void open(int rank, int world_size, uint64_t generation, const std::string& level) {
  trace::SegmentOptions options;
  options.rank = rank;
  options.world_size = world_size;
  options.generation = generation;
  segment() = value_of(trace::open_recorder(options, level_of(level)));
}

void close() {
  const pybind11::gil_scoped_release release;
  trace::close_recorder();
}

void set_level(const std::string& level) {
  if (segment()) segment()->set_level(level_of(level));
}

std::string level() {
  return segment() ? trace::name_of(segment()->level()) : "off";
}

// Whether it was recorded, and needs an end().
bool begin(uint16_t name, uint64_t value) {
  if (name == 0 || !trace::records(Level::kSpans)) return false;
  trace::record(Level::kSpans, {.value = value, .name = name, .kind = Kind::kBegin});
  return true;
}

// Also where the level has fallen since it was begun.
void end(uint16_t name) {
  trace::record(Level::kCollectives, {.name = name, .kind = Kind::kEnd});
}

void counter(uint16_t name, uint64_t value) {
  trace::record(Level::kSpans, {.value = value, .name = name, .kind = Kind::kCounter});
}

const char* kind_name(Kind kind) {
  constexpr const char* kNames[] = {"thread",  "begin",  "end",     "instant",
                                    "counter", "issued", "started", "completed"};
  const auto i = static_cast<size_t>(kind);
  return i < std::size(kNames) ? kNames[i] : "?";
}

using Row =
    std::tuple<int64_t, const char*, std::string, std::string, uint32_t, uint32_t, uint64_t>;

// Times on CLOCK_MONOTONIC in ns; in their order.
std::vector<Row> records() {
  std::vector<Row> rows;
  if (!segment()) return rows;
  std::vector<Record> all;
  for (uint32_t i = 0; i < segment()->rings(); ++i) trace::RingReader(segment(), i).read(all);
  std::ranges::stable_sort(all, {}, &Record::time);
  const trace::TimeScale scale = segment()->time_scale();
  rows.reserve(all.size());
  for (const Record& r : all) {
    rows.emplace_back(scale.monotonic_ns(r.time), kind_name(r.kind), segment()->name(r.name),
                      segment()->name(r.group), r.sequence, r.extra, r.value);
  }
  return rows;
}

void attach(const c10::intrusive_ptr<c10d::ProcessGroup>& group, const std::string& name,
            const std::vector<uint32_t>& ranks) {
  check_ok(trace::attach(group, {name, ranks}));
}

}  // namespace

void bind_trace(pybind11::module_& module) {
  pybind11::module_::import("torch._C._distributed_c10d");
  module.def("trace_open", &open);
  module.def("trace_close", &close);
  module.def("trace_set_level", &set_level);
  module.def("trace_level", &level);
  module.def("trace_intern", &trace::intern);
  module.def("trace_begin", &begin);
  module.def("trace_end", &end);
  module.def("trace_counter", &counter);
  module.def("trace_records", &records);
  module.def("trace_attach", &attach);
  module.def("trace_batch_ended", &trace::batch_ended);
}

}  // namespace convoy::python
