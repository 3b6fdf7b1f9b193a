// Puts devices, streams and the order checker together. One lock: the order in which tasks are
// queued is the order in which they are checked.
#include "src/standin/core/machine.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <unistd.h>
#include <utility>

namespace convoy::standin {
namespace {

constexpr uint64_t kFindingsShown = 3;   // of one text; the report has the count
constexpr size_t kFindingsWritten = 64;  // at once; later ones at exit

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || *value == 0 ? nullptr : value;
}

[[noreturn]] void refuse(const char* name, const char* value, const char* wanted) {
  std::fprintf(stderr, "convoy stand-in: %s is '%s'; wanted: %s\n", name, value, wanted);
  std::exit(64);
}

size_t bytes_of(const char* name, const char* text) {
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  const std::string unit = end;
  double factor = 0;
  if (unit.empty() || unit == "B") factor = 1;
  if (unit == "KiB") factor = 1024.0;
  if (unit == "MiB") factor = 1024.0 * 1024;
  if (unit == "GiB") factor = 1024.0 * 1024 * 1024;
  if (end == text || factor == 0 || number <= 0) refuse(name, text, "a size like 2GiB");
  return static_cast<size_t>(number * factor);
}

int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) >= 0x20 ? c : ' ';
  }
  return out + '"';
}

std::atomic<Machine*> made{nullptr};

}  // namespace

Settings Settings::from_environment() {
  Settings settings;
  if (const char* text = variable("CONVOY_STANDIN_GPUS")) {
    settings.devices = std::atoi(text);
    if (settings.devices < 0 || settings.devices > kDevicesMax) {
      refuse("CONVOY_STANDIN_GPUS", text, "0 to 16");
    }
  }
  if (const char* text = variable("CONVOY_STANDIN_GPU_MEMORY")) {
    settings.capacity = bytes_of("CONVOY_STANDIN_GPU_MEMORY", text);
  }
  if (const char* text = variable("CONVOY_STANDIN_SEED")) {
    settings.seed = std::strtoull(text, nullptr, 10);
  }
  if (const char* text = variable("CONVOY_STANDIN_REPORT")) settings.report = text;
  return settings;
}

Machine& Machine::get() {
  // Never destroyed: libraries call into CUDA from their own destructors.
  static Machine* machine = [] {
    auto* machine = new Machine(Settings::from_environment());
    machine->write_report(false);
    made = machine;
    return machine;
  }();
  return *machine;
}

Machine* Machine::existing() {
  return made;
}

Machine::Machine(Settings settings) : settings_(std::move(settings)), process_(::getpid()) {
  for (int d = 0; d < settings_.devices; ++d) {
    memories_.push_back(std::make_unique<DeviceMemory>(d, settings_.capacity));
    null_streams_.push_back(make_stream(d, true, 0));
  }
}

StreamHandle* Machine::make_stream(int device, bool blocking, int priority) {
  const std::lock_guard lock(mutex_);
  auto handle = std::make_unique<StreamHandle>();
  const uint64_t id = next_stream_++;
  handle->stream =
      std::make_shared<Stream>(device, id, blocking, priority, Schedule{settings_.seed});
  handle->actor =
      order_.add("stream " + std::to_string(id) + " of device " + std::to_string(device));
  streams_.push_back(std::move(handle));
  return streams_.back().get();
}

void Machine::drop_stream(StreamHandle* handle) {
  std::unique_ptr<StreamHandle> dropped;  // its thread is joined without the lock
  wait(handle);
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(streams_.begin(), streams_.end(),
                                  [&](const auto& s) { return s.get() == handle; });
  if (found == streams_.end()) return;
  dropped = std::move(*found);
  streams_.erase(found);
}

StreamHandle* Machine::resolve(int device, StreamHandle* handle) {
  return handle == nullptr ? null_streams_[static_cast<size_t>(device)] : handle;
}

Ticket Machine::enqueue(StreamHandle* stream, const std::string& name,
                        const std::vector<OrderChecker::Access>& accesses,
                        std::function<void()> run) {
  const std::lock_guard lock(mutex_);
  Task task;
  task.run = std::move(run);
  task.after = std::exchange(stream->after, {});
  OrderChecker::Clock after = std::exchange(stream->after_clock, {});
  OrderChecker::merge_clock(after, order_.clock(OrderChecker::kHost));
  // The null stream comes after all blocking streams of its device, and they come after it.
  StreamHandle* null = null_streams_[static_cast<size_t>(stream->stream->device())];
  const auto comes_after = [&](StreamHandle* other) {
    task.after.push_back(other->stream->last());
    OrderChecker::merge_clock(after, order_.clock(other->actor));
  };
  if (stream == null) {
    for (const auto& other : streams_) {
      const bool ordered = other.get() != stream && other->stream->blocking() &&
                           other->stream->device() == stream->stream->device();
      if (ordered) comes_after(other.get());
    }
  } else if (stream->stream->blocking()) {
    comes_after(null);
  }
  std::vector<std::string> texts;
  order_.perform(stream->actor, name, accesses, after, texts);
  report_findings(texts);
  return stream->stream->enqueue(std::move(task));
}

bool Machine::is_done(StreamHandle* stream) {
  const Ticket last = stream->stream->last();
  if (!stream->stream->is_done(last.number)) return false;
  order_.join(OrderChecker::kHost, order_.clock(stream->actor));
  return true;
}

void Machine::wait(StreamHandle* stream) {
  Ticket last;
  OrderChecker::Clock clock;
  {
    const std::lock_guard lock(mutex_);
    last = stream->stream->last();
    clock = order_.clock(stream->actor);
  }
  last.stream->wait(last.number);
  order_.join(OrderChecker::kHost, clock);
}

void Machine::wait_device(int device) {
  std::vector<std::pair<Ticket, OrderChecker::Clock>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& handle : streams_) {
      if (handle->stream->device() != device) continue;
      all.emplace_back(handle->stream->last(), order_.clock(handle->actor));
    }
  }
  for (const auto& [ticket, clock] : all) {
    ticket.stream->wait(ticket.number);
    order_.join(OrderChecker::kHost, clock);
  }
}

void Machine::record(EventHandle& event, StreamHandle* stream) {
  auto reached = std::make_shared<std::atomic<int64_t>>(0);
  const std::lock_guard lock(mutex_);
  const auto shared = event.shared;
  const uint64_t number = shared == nullptr ? 0 : shared->begin();
  event.ticket = enqueue(stream, "cudaEventRecord", {}, [reached, shared, number] {
    *reached = now_ns();
    if (shared != nullptr) shared->finish(number);
  });
  event.clock = order_.clock(stream->actor);
  event.reached_ns = std::move(reached);
  event.recorded = true;
}

void Machine::stream_wait(StreamHandle* stream, const EventHandle& event) {
  if (event.imported) return wait_for_process(stream, event);
  if (!event.recorded) return;  // as CUDA: an event that was never recorded holds nobody
  const std::lock_guard lock(mutex_);
  stream->after.push_back(event.ticket);
  OrderChecker::merge_clock(stream->after_clock, event.clock);
}

// What other processes do is not the order checker's business: their memory is not in its books.
void Machine::wait_for_process(StreamHandle* stream, const EventHandle& event) {
  const auto shared = event.shared;
  const uint64_t number = shared->recorded();
  if (shared->is_reached(number)) return;
  enqueue(stream, "cudaStreamWaitEvent", {}, [this, shared, number] {
    if (!shared->await(number)) tell_never_reached(*shared);
  });
}

void Machine::tell_never_reached(const SharedEvent& event) {
  finding("collective never met", "a stream waited for an event of process " +
                                      std::to_string(event.name().pid) +
                                      ", which ended before it had come to it");
}

bool Machine::is_reached(const EventHandle& event) {
  if (event.imported) return event.shared->is_reached(event.shared->recorded());
  if (!event.recorded) return true;
  if (!event.ticket.stream->is_done(event.ticket.number)) return false;
  order_.join(OrderChecker::kHost, event.clock);
  return true;
}

void Machine::wait(const EventHandle& event) {
  if (event.imported) {
    if (!event.shared->await(event.shared->recorded())) tell_never_reached(*event.shared);
    return;
  }
  if (!event.recorded) return;
  event.ticket.stream->wait(event.ticket.number);
  order_.join(OrderChecker::kHost, event.clock);
}

void Machine::pin(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  pinned_[reinterpret_cast<uintptr_t>(data)] = bytes;
}

bool Machine::unpin(const void* data) {
  const std::lock_guard lock(mutex_);
  return pinned_.erase(reinterpret_cast<uintptr_t>(data)) != 0;
}

bool Machine::is_pinned(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto found = pinned_.upper_bound(at);
  if (found == pinned_.begin()) return false;
  --found;
  return at + bytes <= found->first + found->second;
}

bool Machine::is_tracked(const void* data, size_t bytes) {
  return device_of(data) >= 0 || is_pinned(data, bytes);
}

void Machine::report_findings(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) finding("unsynchronised use", text);
}

void Machine::finding(const std::string& kind, const std::string& text) {
  const std::lock_guard lock(mutex_);
  if (!is_own_process()) {
    findings_.clear();
    process_ = ::getpid();
  }
  const auto same = std::find_if(findings_.begin(), findings_.end(), [&](const Finding& f) {
    return f.kind == kind && f.text == text;
  });
  Finding& found = same == findings_.end() ? findings_.emplace_back(Finding{kind, text, 0}) : *same;
  if (++found.count <= kFindingsShown) {
    std::fprintf(stderr, "convoy stand-in: %s: %s\n", kind.c_str(), text.c_str());
  }
  if (found.count == 1 && findings_.size() <= kFindingsWritten) write_report(false);
}

bool Machine::is_own_process() const {
  return process_ == ::getpid();
}

void Machine::write_report(bool ended) {
  if (settings_.report.empty()) return;
  const std::lock_guard lock(mutex_);
  const std::string path = settings_.report + "/" + std::to_string(::getpid()) + ".json";
  const std::string whole = report(ended);
  std::ofstream(path + ".new") << whole << '\n';
  std::rename((path + ".new").c_str(), path.c_str());  // never half a report
}

std::string Machine::report(bool ended) {
  const std::lock_guard lock(mutex_);
  std::string out = std::string("{\"ended\": ") + (ended ? "true" : "false") + ", \"devices\": [";
  for (int d = 0; d < devices(); ++d) {
    const auto alive = memory(d).alive();
    size_t bytes = 0;
    std::map<std::string, std::pair<size_t, size_t>> owners;  // to number and bytes
    for (const Allocation& a : alive) {
      bytes += a.bytes;
      auto& [number, sum] = owners[a.owner];
      ++number;
      sum += a.bytes;
    }
    out += (d == 0 ? "" : ", ") + std::string("{\"device\": ") + std::to_string(d) +
           ", \"capacity\": " + std::to_string(memory(d).capacity()) +
           ", \"peak\": " + std::to_string(memory(d).peak()) +
           ", \"alive\": " + std::to_string(alive.size()) +
           ", \"alive_bytes\": " + std::to_string(bytes) + ", \"owners\": [";
    for (const auto& [owner, count] : owners) {
      out += (out.back() == '[' ? "" : ", ") + std::string("{\"owner\": ") + quoted(owner) +
             ", \"count\": " + std::to_string(count.first) +
             ", \"bytes\": " + std::to_string(count.second) + "}";
    }
    out += "]}";
  }
  out += "], \"findings\": [";
  for (size_t i = 0; i < findings_.size(); ++i) {
    const Finding& f = findings_[i];
    out += (i == 0 ? "" : ", ") + std::string("{\"kind\": ") + quoted(f.kind) +
           ", \"text\": " + quoted(f.text) + ", \"count\": " + std::to_string(f.count) + "}";
  }
  return out + "]}";
}

}  // namespace convoy::standin
