// Streams as JSON lines. Written out by hand in one place each way: the names are the format's.
#include "trace/stream/json.h"

#include <convoy/trace/stream.h>

#include <nlohmann/json.hpp>

#include <fstream>

namespace convoy::trace {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const Registry& registry, const Operation& o) {
  const Signature& s = registry.signatures()[o.signature];
  Json json = {{"group", registry.groups()[s.group].name}, {"operation", s.operation}};
  if (!s.dtype.empty()) json["dtype"] = s.dtype;
  if (!s.reduction.empty()) json["reduction"] = s.reduction;
  if (s.root >= 0) json["root"] = s.root;
  if (s.peer >= 0) json["peer"] = s.peer;
  json["bytes"] = s.bytes;
  if (s.uneven) json["uneven"] = true;
  json["sequence"] = o.sequence;
  json["issued"] = o.issued;
  if (o.started != 0) json["started"] = o.started;
  if (o.completed != 0) json["completed"] = o.completed;
  return json;
}

Json to_json(const Registry& registry, const SpanEvent& s) {
  Json json = {{"name", registry.names()[s.name]}, {"thread", s.thread}, {"begin", s.begin}};
  if (s.end != 0) json["end"] = s.end;
  if (s.value != 0) json["value"] = s.value;
  return json;
}

Json to_json(const Registry& registry, const CounterEvent& c) {
  Json json = {{"name", registry.names()[c.name]}, {"time", c.time}, {"value", c.value}};
  if (c.peer >= 0) json["peer"] = c.peer;
  return json;
}

template <class T>
Json list_of(const Registry& registry, const std::vector<T>& list) {
  Json json = Json::array();
  for (const T& each : list) json.push_back(to_json(registry, each));
  return json;
}

Json to_json(const Registry& registry, const RankState& state) {
  Json progress = Json::array();
  for (const GroupProgress& p : state.progress) {
    progress.push_back({{"group", registry.groups()[p.group].name},
                        {"issued", p.issued},
                        {"started", p.started},
                        {"completed", p.completed}});
  }
  return {{"time", state.time},
          {"life", name_of(state.life)},
          {"exit_code", state.exit_code},
          {"progress", progress},
          {"pending", list_of(registry, state.pending)},
          {"open", list_of(registry, state.open)},
          {"lost", state.lost},
          {"shed", state.shed}};
}

// Throws nlohmann's exceptions, with what is missing or of another type.
class FromJson {
 public:
  explicit FromJson(Registry& registry) : registry_(registry) {}

  void line(const Json& json, Sink& to) {
    if (json.contains("group")) {
      const Json& group = json["group"];
      registry_.group({group.at("name"), group.value("ranks", std::vector<uint32_t>())});
    } else if (json.contains("job")) {
      to.job(job(json["job"]));
    } else if (json.contains("batch")) {
      to.batch(batch(json["batch"]));
    } else if (json.contains("clock")) {
      const Json& c = json["clock"];
      to.clock({c.at("host"), c.at("host_time"), c.at("root_time"), c.value("error", int64_t{0})});
    }  // others: of a later version
  }

 private:
  static JobInfo job(const Json& json) {
    JobInfo job{
        json.value("name", ""), json.value("generation", uint64_t{0}), json.at("world_size"), {}};
    for (const Json& d : json.value("mesh", Json::array())) job.mesh.push_back({d.at(0), d.at(1)});
    return job;
  }

  Batch batch(const Json& json) {
    Batch batch;
    batch.rank = json.at("rank");
    batch.generation = json.value("generation", uint64_t{0});
    batch.number = json.at("number");
    batch.received = json.value("received", int64_t{0});
    batch.host = json.value("host", "");
    batch.pid = json.value("pid", 0);
    batch.operations = operations(json, "operations");
    batch.spans = spans(json, "spans");
    for (const Json& c : json.value("counters", Json::array())) {
      batch.counters.push_back({name(c), c.value("peer", -1), c.at("time"), c.at("value")});
    }
    if (json.contains("state")) batch.state = state(json["state"]);
    return batch;
  }

  RankState state(const Json& json) {
    RankState state;
    state.time = json.at("time");
    state.life = life_of(json.value("life", "")).value_or(Life::kUnknown);
    state.exit_code = json.value("exit_code", 0);
    for (const Json& p : json.value("progress", Json::array())) {
      state.progress.push_back({group(p), p.at("issued"), p.value("started", uint32_t{0}),
                                p.value("completed", uint32_t{0})});
    }
    state.pending = operations(json, "pending");
    state.open = spans(json, "open");
    state.lost = json.value("lost", uint64_t{0});
    state.shed = json.value("shed", uint64_t{0});
    return state;
  }

  std::vector<Operation> operations(const Json& json, const char* key) {
    std::vector<Operation> list;
    for (const Json& o : json.value(key, Json::array())) {
      const Signature s{group(o),
                        o.at("operation"),
                        o.value("dtype", ""),
                        o.value("reduction", ""),
                        o.value("root", -1),
                        o.value("peer", -1),
                        o.value("bytes", uint64_t{0}),
                        o.value("uneven", false)};
      list.push_back({registry_.signature(s), o.at("sequence"), o.value("issued", int64_t{0}),
                      o.value("started", int64_t{0}), o.value("completed", int64_t{0})});
    }
    return list;
  }

  std::vector<SpanEvent> spans(const Json& json, const char* key) {
    std::vector<SpanEvent> list;
    for (const Json& s : json.value(key, Json::array())) {
      list.push_back({name(s), s.value("thread", uint32_t{0}), s.at("begin"),
                      s.value("end", int64_t{0}), s.value("value", uint64_t{0})});
    }
    return list;
  }

  uint32_t group(const Json& json) { return registry_.group({json.at("group"), {}}); }
  uint32_t name(const Json& json) {
    return registry_.name(json.at("name").get_ref<const std::string&>());
  }

  Registry& registry_;
};

}  // namespace

Status read_json_stream(std::istream& in, Registry& registry, Sink& to, bool& truncated) {
  FromJson from(registry);
  std::string line;
  for (uint64_t number = 1; std::getline(in, line); ++number) {
    if (line.empty()) continue;
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    // Not the last line's newline either: whoever wrote it was cut off.
    truncated = in.eof() && json.is_discarded();
    if (truncated) return Status();
    const std::string where = "line " + std::to_string(number);
    if (!json.is_object()) return Status(Code::kDataLoss, where + " is no JSON object");
    try {
      from.line(json, to);
    } catch (const Json::exception& e) {
      return Status(Code::kDataLoss, where + ": " + e.what());
    }
  }
  return Status();
}

struct JsonStreamWriter::Impl {
  std::filesystem::path path;
  std::ofstream out;
  const Registry& registry;
  size_t groups_told = 0;

  void tell_groups() {
    for (; groups_told < registry.groups().size(); ++groups_told) {
      const GroupInfo& group = registry.groups()[groups_told];
      put({{"group", {{"name", group.name}, {"ranks", group.ranks}}}});
    }
  }
  void put(const Json& json) {
    out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  }
};

JsonStreamWriter::JsonStreamWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
JsonStreamWriter::~JsonStreamWriter() = default;

Result<std::unique_ptr<JsonStreamWriter>> JsonStreamWriter::create(
    const std::filesystem::path& path, const Registry& registry) {
  auto impl = std::unique_ptr<Impl>(new Impl{path, std::ofstream(path), registry});
  if (!impl->out) return errno_status("can't write " + path.string(), errno);
  return std::unique_ptr<JsonStreamWriter>(new JsonStreamWriter(std::move(impl)));
}

void JsonStreamWriter::job(const JobInfo& job) {
  Json mesh = Json::array();
  for (const Dimension& d : job.mesh) mesh.push_back({d.name, d.size});
  impl_->put({{"job",
               {{"name", job.job},
                {"generation", job.generation},
                {"world_size", job.world_size},
                {"mesh", mesh}}}});
}

void JsonStreamWriter::batch(const Batch& batch) {
  impl_->tell_groups();
  Json json = {{"rank", batch.rank}, {"generation", batch.generation}, {"number", batch.number}};
  if (batch.received != 0) json["received"] = batch.received;
  if (!batch.host.empty()) {
    json["host"] = batch.host;
    json["pid"] = batch.pid;
  }
  const Registry& registry = impl_->registry;
  if (!batch.operations.empty()) json["operations"] = list_of(registry, batch.operations);
  if (!batch.spans.empty()) json["spans"] = list_of(registry, batch.spans);
  if (!batch.counters.empty()) json["counters"] = list_of(registry, batch.counters);
  if (batch.state) json["state"] = to_json(registry, *batch.state);
  impl_->put({{"batch", json}});
}

void JsonStreamWriter::clock(const ClockSample& sample) {
  impl_->put({{"clock",
               {{"host", sample.host},
                {"host_time", sample.host_time},
                {"root_time", sample.root_time},
                {"error", sample.error}}}});
}

Status JsonStreamWriter::close() {
  impl_->out.close();
  if (!impl_->out) return errno_status("can't write " + impl_->path.string(), errno);
  return Status();
}

}  // namespace convoy::trace
