// The checkpoint service for Python: snapshots, steps without an agent, who gives which replica
// (reading: bind_reader.cc). Tensors come as addresses with their boxes
// (convoy/checkpoint/_layout.py), so nothing here knows torch's but the process group that ranks
// talk through. Whatever blocks lets go of the interpreter lock.
#include "python/bindings.h"
#include "python/checkpoint_state.h"
#include "python/status_error.h"
#include <convoy/ckpt/agent_process.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/find_nodes.h>
#include <convoy/ckpt/group_exchange.h>
#include <convoy/ckpt/replicas.h>
#include <convoy/ckpt/store.h>
#include <convoy/ckpt/write_state.h>
#include <convoy/launch/environment.h>

#include <torch/csrc/utils/pybind.h>

#include <mutex>
#include <pybind11/stl.h>
#include <tuple>
#include <utility>

namespace convoy::python {
namespace {

namespace py = pybind11;
using ckpt::State;
using PyHeld = std::tuple<std::string, int, Sizes, std::vector<std::pair<Sizes, Sizes>>>;

// A SnapshotClient is one thread's at a time: here a save and the thread that watches for earlier
// ones take turns.
class Client {
 public:
  explicit Client(ckpt::ClientOptions options)
      : client_(value_of(ckpt::SnapshotClient::connect(std::move(options)))) {}

  void prepare(const State& state) {
    const std::lock_guard lock(mutex_);
    check_ok(client_->prepare(state));
  }
  ckpt::SaveOutcome save(uint64_t step, const State& state,
                         const std::map<std::string, std::string>& notes, bool everywhere) {
    const std::lock_guard lock(mutex_);
    return value_of(client_->save(step, state, notes, everywhere));
  }
  void wait(uint64_t step, int tier, double timeout) {
    const std::lock_guard lock(mutex_);
    check_ok(client_->wait(step, static_cast<ckpt::Tier>(tier), nanos(timeout)));
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<ckpt::SnapshotClient> client_;
};

// The fields of ClientOptions that Python calls by their names; what is left out keeps its default.
ckpt::ClientOptions options_of(const py::dict& fields) {
  ckpt::ClientOptions o;
  const auto read = [&](const char* name, auto& to) {
    if (fields.contains(name)) to = fields[name].cast<std::remove_reference_t<decltype(to)>>();
  };
  read("agent", o.agent);
  read("job", o.job);
  read("generation", o.generation);
  read("rank", o.rank);
  read("world_size", o.world_size);
  read("local_size", o.local_size);
  read("node", o.node);
  read("nodes", o.nodes);
  read("coordinator", o.coordinator);
  read("domain", o.domain);
  read("mesh", o.mesh);
  read("folder", o.folder);
  read("keep_newest", o.keep_newest);
  read("keep_every", o.keep_every);
  read("disk_every", o.disk_every);
  read("bandwidth", o.bandwidth);
  read("compress", o.compress);
  read("incremental", o.incremental);
  read("take_over", o.take_over);
  read("remote", o.remote);
  read("remote_every", o.remote_every);
  read("remote_keep_newest", o.remote_keep_newest);
  read("remote_keep_every", o.remote_keep_every);
  read("remote_bandwidth", o.remote_bandwidth);
  read("remote_compress", o.remote_compress);
  read("replica_k", o.replica_k);
  read("replica_m", o.replica_m);
  read("replica_bandwidth", o.replica_bandwidth);
  read("threads", o.threads);
  if (fields.contains("overtake")) {
    o.overtake = static_cast<ckpt::Overtake>(fields["overtake"].cast<int>());
  }
  if (fields.contains("timeout")) o.timeout = nanos(fields["timeout"].cast<double>());
  return o;
}

std::unique_ptr<Client> connect(const py::dict& fields) {
  ckpt::ClientOptions options = options_of(fields);
  const py::gil_scoped_release release;
  return std::make_unique<Client>(std::move(options));
}

// ckpt::find_nodes(): (node, nodes, ranks of this one, coordinator).
std::tuple<uint32_t, uint32_t, uint32_t, std::string> find_nodes(const ProcessGroup& group,
                                                                 const std::string& agent,
                                                                 double timeout) {
  ckpt::ClientOptions options;
  options.agent = agent;
  options.timeout = nanos(timeout);
  ckpt::GroupExchange exchange{comm::Group(group)};
  check_ok(ckpt::find_nodes(exchange, options));
  return {options.node, options.nodes, options.local_size, options.coordinator};
}

// The name of this node's agent, started if there is none yet.
std::string agent_name(double timeout) {
  ckpt::AgentPlace place;
  place.timeout = nanos(timeout);
  if (const auto given = launch::process_getenv()("CONVOY_AGENT")) {
    place.agent = *given;  // whatever else the environment lacks
  } else {
    const launch::Environment e = value_of(launch::read_environment());
    place.job = launch::local_job(e);
    place.program = e.program;
  }
  return value_of(ckpt::ensure_agent(place));
}

// Writes parts of a step and commits it, without an agent.
class FolderWriter {
 public:
  FolderWriter(const std::string& folder, std::string job, uint64_t generation)
      : claimant_{std::move(job), generation, "convoy.checkpoint.DcpWriter"},
        store_(value_of(ckpt::open_store(folder))),
        catalog_(*store_) {}
  void take_over() { check_ok(catalog_.take_over(claimant_)); }
  void join() { check_ok(catalog_.join(claimant_)); }
  using Ref = std::tuple<std::string, uint64_t, uint64_t, uint32_t>;
  Ref write(uint64_t step, uint32_t node, const State& state) {
    const ckpt::PartRef ref =
        value_of(ckpt::write_state(*store_, catalog_, step, node, claimant_.generation, state));
    return {ref.path, ref.bytes, ref.checksum, ref.node};
  }
  void commit(uint64_t step, uint32_t world_size, const std::vector<Ref>& refs) {
    ckpt::Commit head;
    head.step = step;
    head.world_size = world_size;
    ckpt::CommitBuilder builder(std::move(head));
    for (const auto& [path, bytes, checksum, node] : refs) {
      const ckpt::PartRef ref{path, bytes, checksum, node};
      check_ok(builder.add(ref, value_of(catalog_.load_part(ref))));
    }
    check_ok(catalog_.commit(std::move(builder).finish()));
  }
  void keep(uint64_t newest) {
    ckpt::KeepPolicy policy;
    policy.newest = newest;
    check_ok(catalog_.collect(policy).status());
  }
  void release() { check_ok(catalog_.release()); }

 private:
  ckpt::Claimant claimant_;
  std::unique_ptr<ckpt::Store> store_;
  ckpt::Catalog catalog_;
};

// Rank `rank`'s shares: (tensor, box, begin, extent).
std::vector<std::tuple<uint32_t, uint32_t, Sizes, Sizes>> shares_of(
    const std::vector<std::vector<PyHeld>>& all, size_t rank) {
  std::vector<ckpt::Holding> holdings;
  for (const auto& held : all) {
    ckpt::Holding& holding = holdings.emplace_back();
    for (const auto& [name, dtype, shape, boxes] : held) {
      ckpt::HeldTensor& tensor = holding.emplace_back(
          ckpt::HeldTensor{{name, static_cast<ckpt::Dtype>(dtype), shape}, {}});
      for (const auto& [begin, extent] : boxes) tensor.boxes.push_back({begin, extent});
    }
  }
  const auto shares = value_of(ckpt::spread_replicas(holdings));
  std::vector<std::tuple<uint32_t, uint32_t, Sizes, Sizes>> out;
  for (const ckpt::ReplicaShare& share : shares.at(rank)) {
    out.emplace_back(share.tensor, share.box, share.begin, share.extent);
  }
  return out;
}

std::vector<py::bytes> gather_bytes(const ProcessGroup& group, const std::string& mine) {
  std::vector<ckpt::Exchange::Bytes> all;
  {
    const py::gil_scoped_release release;
    const auto* data = reinterpret_cast<const std::byte*>(mine.data());
    all = value_of(ckpt::GroupExchange(comm::Group(group)).all_gather({data, data + mine.size()}));
  }
  std::vector<py::bytes> out;
  for (const auto& bytes : all) {
    out.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(std::move(error));
  } catch (const StatusError& e) {
    const py::object made =
        py::module_::import("convoy.errors")
            .attr("of_kind")(std::string(code_name(e.status().code())), e.status().message());
    PyErr_SetObject(py::type::handle_of(made).ptr(), made.ptr());
  }
}

void bind_folder_writer(py::module_& module) {
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<FolderWriter>(module, "FolderWriter")
      .def(py::init<const std::string&, std::string, uint64_t>(), no_gil)
      .def("take_over", &FolderWriter::take_over, no_gil)
      .def("join", &FolderWriter::join, no_gil)
      .def("write",
           [](FolderWriter& writer, uint64_t step, uint32_t node,
              const std::vector<PyTensor>& tensors) {
             const State state = state_of(tensors);
             const py::gil_scoped_release release;
             return writer.write(step, node, state);
           })
      .def("commit", &FolderWriter::commit, no_gil)
      .def("keep", &FolderWriter::keep, no_gil)
      .def("release", &FolderWriter::release, no_gil);
}

}  // namespace

void bind_checkpoint(py::module_& module) {
  py::register_exception_translator(&translate);
  py::class_<Client>(module, "SnapshotClient")
      .def(py::init(&connect))
      .def("prepare",
           [](Client& client, const std::vector<PyTensor>& tensors) {
             const State state = state_of(tensors);
             const py::gil_scoped_release release;
             client.prepare(state);
           })
      // (whether it was skipped, why, bytes of this rank)
      .def("save",
           [](Client& client, uint64_t step, const std::vector<PyTensor>& tensors,
              const std::map<std::string, std::string>& notes, bool everywhere) {
             const State state = state_of(tensors);
             const py::gil_scoped_release release;
             const ckpt::SaveOutcome outcome = client.save(step, state, notes, everywhere);
             return std::tuple(outcome.skipped, outcome.why, outcome.bytes);
           })
      .def("wait", &Client::wait, py::call_guard<py::gil_scoped_release>());
  bind_folder_writer(module);
  module.attr("TIERS") = std::map<std::string, int>{
      {"staged", static_cast<int>(ckpt::Tier::kStaged)},
      {"replicated", static_cast<int>(ckpt::Tier::kReplicated)},
      {"local", static_cast<int>(ckpt::Tier::kLocalDurable)},
      {"remote", static_cast<int>(ckpt::Tier::kRemoteDurable)},
  };
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  module.def("ensure_agent", &agent_name, no_gil);
  module.def("find_nodes", &find_nodes, no_gil);
  module.def("is_store_uri", &ckpt::is_store_uri);
  module.def("shares_of", &shares_of);
  module.def("gather_bytes", &gather_bytes);
}

}  // namespace convoy::python
