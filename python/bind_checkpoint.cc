// The checkpoint service for Python: snapshots, reading of steps, who gives which replica. Tensors
// come as addresses with their boxes (convoy/checkpoint/_layout.py), so nothing here knows torch's
// but the process group that ranks talk through. Whatever blocks lets go of the interpreter lock.
#include "python/bindings.h"
#include "python/status_error.h"
#include <convoy/ckpt/agent_process.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/group_exchange.h>
#include <convoy/ckpt/load_together.h>
#include <convoy/ckpt/replicas.h>
#include <convoy/ckpt/restore.h>
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
using Sizes = std::vector<int64_t>;
using PyBox = std::tuple<Sizes, Sizes, uintptr_t, Sizes>;  // begin, extent, address, strides
using PyInfo = std::tuple<std::string, int, Sizes>;        // name, dtype, shape
using PyTensor = std::tuple<std::string, int, Sizes, std::vector<PyBox>>;
using PyHeld = std::tuple<std::string, int, Sizes, std::vector<std::pair<Sizes, Sizes>>>;
using ProcessGroup = c10::intrusive_ptr<c10d::ProcessGroup>;

State state_of(const std::vector<PyTensor>& tensors) {
  State state;
  state.reserve(tensors.size());
  for (const auto& [name, dtype, shape, boxes] : tensors) {
    ckpt::StateTensor& tensor =
        state.emplace_back(ckpt::StateTensor{{name, static_cast<ckpt::Dtype>(dtype), shape}, {}});
    for (const auto& [begin, extent, address, strides] : boxes) {
      auto* data = reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
      tensor.boxes.push_back({begin, extent, data, strides});
    }
  }
  return state;
}

Nanos nanos(double seconds) {
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

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
                         const std::map<std::string, std::string>& notes) {
    const std::lock_guard lock(mutex_);
    return value_of(client_->save(step, state, notes));
  }
  void wait(uint64_t step, int tier, double timeout) {
    const std::lock_guard lock(mutex_);
    check_ok(client_->wait(step, static_cast<ckpt::Tier>(tier), nanos(timeout)));
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<ckpt::SnapshotClient> client_;
};

std::unique_ptr<Client> connect(const std::string& agent, const std::string& job,
                                uint64_t generation, uint32_t rank, uint32_t world_size,
                                uint32_t local_size, const std::string& folder,
                                const py::dict& policy) {
  ckpt::ClientOptions options;
  options.agent = agent;
  options.job = job;
  options.generation = generation;
  options.rank = rank;
  options.world_size = world_size;
  options.local_size = local_size;
  options.folder = folder;
  options.keep_newest = policy["keep_newest"].cast<uint64_t>();
  options.keep_every = policy["keep_every"].cast<uint64_t>();
  options.disk_every = policy["disk_every"].cast<uint64_t>();
  options.bandwidth = policy["bandwidth"].cast<uint64_t>();
  options.incremental = policy["incremental"].cast<bool>();
  options.overtake = static_cast<ckpt::Overtake>(policy["overtake"].cast<int>());
  options.threads = policy["threads"].cast<int>();
  options.timeout = nanos(policy["timeout"].cast<double>());
  options.mesh = policy["mesh"].cast<std::string>();
  const py::gil_scoped_release release;
  return std::make_unique<Client>(std::move(options));
}

// A committed step, or one that an agent has whole in memory.
class Reader {
 public:
  explicit Reader(std::unique_ptr<ckpt::StepSource> source,
                  std::unique_ptr<ckpt::Store> store = nullptr)
      : store_(std::move(store)), source_(std::move(source)) {}

  static std::unique_ptr<Reader> in_folder(const std::string& folder, uint64_t step,
                                           uint64_t claim) {
    auto store = value_of(ckpt::open_store(folder));
    ckpt::Catalog catalog(*store);
    ckpt::Commit commit = value_of(claim > 0 ? catalog.load_commit(ckpt::CommitKey{step, claim})
                                             : catalog.load_commit(step));
    if (ckpt::is_store_uri(folder)) {
      auto source = std::make_unique<ckpt::StoreSource>(*store, std::move(commit));
      return std::make_unique<Reader>(std::move(source), std::move(store));
    }
    auto engine = value_of(ckpt::DiskEngine::create());
    return std::make_unique<Reader>(
        value_of(ckpt::FolderSource::create(folder, std::move(commit), std::move(engine))));
  }

  // Null if the agent has no step of all ranks.
  static std::unique_ptr<Reader> in_memory(const std::string& agent, double timeout) {
    auto held = value_of(ckpt::find_in_memory(agent, nanos(timeout)));
    if (!held || held->ranks.size() != held->world_size) return nullptr;
    ckpt::Commit head;
    head.step = held->step;
    head.world_size = held->world_size;
    std::vector<ckpt::Snapshot> snapshots;
    for (ckpt::HeldSnapshot& rank : held->ranks) {
      snapshots.push_back({std::move(rank.part), {rank.stream}, rank.arena});
      snapshots.back().part.node = rank.rank;  // each rank's is a part of its own
    }
    return std::make_unique<Reader>(value_of(ckpt::ArenaSource::create(
        "step " + std::to_string(held->step) + " in the memory of agent " + agent, std::move(head),
        std::move(snapshots))));
  }

  const ckpt::Commit& commit() const { return source_->commit(); }
  const std::string& name() const { return source_->name(); }

  // By all ranks of `group` together if there is one.
  ckpt::LoadReport load(const State& state, const ProcessGroup& group, int threads,
                        uint64_t staging_bytes) {
    ckpt::LoadOptions options;
    options.threads = threads;
    options.staging_bytes_max = staging_bytes;
    ckpt::LoadReport report;
    if (group && group->getSize() > 1) {
      ckpt::GroupExchange exchange{comm::Group(group)};
      check_ok(ckpt::load_together(*source_, state, exchange, options, &report));
    } else {
      check_ok(ckpt::load(*source_, state, options, &report));
    }
    return report;
  }

 private:
  const std::unique_ptr<ckpt::Store> store_;  // of source_, if that needs one
  const std::unique_ptr<ckpt::StepSource> source_;
};

std::vector<PyInfo> tensors_of(const Reader& reader) {
  std::vector<PyInfo> out;
  for (const ckpt::TensorEntry& entry : reader.commit().tensors) {
    out.emplace_back(entry.info.name, static_cast<int>(entry.info.dtype), entry.info.shape);
  }
  return out;
}

py::dict report_of(const ckpt::LoadReport& report) {
  py::dict out;
  out["step"] = report.step;
  out["bytes_wanted"] = report.bytes_wanted;
  out["bytes_read"] = report.bytes_read;
  out["bytes_sent"] = report.bytes_sent;
  out["bytes_received"] = report.bytes_received;
  return out;
}

// (step, claim, what is wrong with it or "") of all commit records, newest first.
std::vector<std::tuple<uint64_t, uint64_t, std::string>> steps_in(const std::string& folder) {
  const auto store = value_of(ckpt::open_store(folder));
  ckpt::Catalog catalog(*store);
  std::vector<std::tuple<uint64_t, uint64_t, std::string>> out;
  for (const ckpt::StepInfo& info : value_of(catalog.steps())) {
    out.emplace_back(info.key.step, info.key.claim,
                     info.status.ok() ? "" : info.status.to_string());
  }
  return out;
}

// The name of this node's agent, started if there is none yet.
std::string agent_name(double timeout) {
  const launch::Environment e = value_of(launch::read_environment());
  return value_of(ckpt::ensure_agent({.agent = e.agent,
                                      .job = launch::local_job(e),
                                      .program = e.program,
                                      .timeout = nanos(timeout)}));
}

// Of the folder's owner: -1 if nobody ever had it.
int64_t owner_generation(const std::string& folder) {
  const auto store = value_of(ckpt::open_store(folder));
  const auto owner = value_of(ckpt::Catalog(*store).owner());
  return owner ? static_cast<int64_t>(owner->generation) : -1;
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

void bind_reader(py::module_& module) {
  py::class_<Reader>(module, "CheckpointReader")
      .def_property_readonly("step", [](const Reader& reader) { return reader.commit().step; })
      .def_property_readonly("notes", [](const Reader& reader) { return reader.commit().notes; })
      .def_property_readonly("name", &Reader::name)
      .def("tensors", &tensors_of)
      .def("load", [](Reader& reader, const std::vector<PyTensor>& tensors,
                      const ProcessGroup& group, int threads, uint64_t staging_bytes) {
        const State state = state_of(tensors);
        ckpt::LoadReport report;
        {
          const py::gil_scoped_release release;
          report = reader.load(state, group, threads, staging_bytes);
        }
        return report_of(report);
      });
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  module.def("open_step", &Reader::in_folder, no_gil);
  module.def("open_memory", &Reader::in_memory, no_gil);
  module.def("steps_in", &steps_in, no_gil);
  module.def("ensure_agent", &agent_name, no_gil);
  module.def("owner_generation", &owner_generation, no_gil);
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
              const std::map<std::string, std::string>& notes) {
             const State state = state_of(tensors);
             const py::gil_scoped_release release;
             const ckpt::SaveOutcome outcome = client.save(step, state, notes);
             return std::tuple(outcome.skipped, outcome.why, outcome.bytes);
           })
      .def("wait", &Client::wait, py::call_guard<py::gil_scoped_release>());
  bind_reader(module);
  bind_folder_writer(module);
  module.attr("TIERS") = std::map<std::string, int>{
      {"staged", static_cast<int>(ckpt::Tier::kStaged)},
      {"local", static_cast<int>(ckpt::Tier::kLocalDurable)},
  };
  module.def("shares_of", &shares_of);
  module.def("gather_bytes", &gather_bytes);
}

}  // namespace convoy::python
