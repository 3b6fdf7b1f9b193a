// Committed steps, and what agents have in memory, for Python to load from.
#include "python/bindings.h"
#include "python/checkpoint_state.h"
#include "python/status_error.h"
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/group_exchange.h>
#include <convoy/ckpt/load_nearest.h>
#include <convoy/ckpt/load_together.h>
#include <convoy/ckpt/peers.h>
#include <convoy/ckpt/restore.h>
#include <convoy/ckpt/store.h>

#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>

namespace convoy::python {
namespace {

namespace py = pybind11;
using ckpt::State;
using PyInfo = std::tuple<std::string, int, Sizes>;  // name, dtype, shape

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

  // What the memory of all machines' agents has together. Null if that is nothing.
  static std::unique_ptr<Reader> in_peers(const std::string& coordinator, uint64_t generation,
                                          double timeout) {
    auto source = ckpt::open_in_peers({coordinator, generation, {}, nanos(timeout)});
    if (source.status().code() == Code::kNotFound) return nullptr;
    return std::make_unique<Reader>(value_of(std::move(source)));
  }

  const ckpt::Commit& commit() const { return source_->commit(); }
  const std::string& name() const { return source_->name(); }

  // By all ranks of `group` together if there is one. `other`, or null: the same step elsewhere,
  // for what is damaged here.
  ckpt::LoadReport load(const State& state, const ProcessGroup& group, int threads,
                        uint64_t staging_bytes, Reader* other) {
    ckpt::LoadOptions options;
    if (other != nullptr) options.other_sources.push_back(other->source_.get());
    options.threads = threads;
    options.staging_bytes_max = staging_bytes;
    if (store_ != nullptr) options = load_options_for(ckpt::Tier::kRemoteDurable, options);
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

// (step, claim, generation, what is wrong with it or "") of all commit records, newest first. Of a
// record that can't be read the generation is that of the one before.
std::vector<std::tuple<uint64_t, uint64_t, uint64_t, std::string>> steps_in(
    const std::string& folder) {
  const auto store = value_of(ckpt::open_store(folder));
  ckpt::Catalog catalog(*store);
  std::vector<std::tuple<uint64_t, uint64_t, uint64_t, std::string>> out;
  uint64_t generation = UINT64_MAX;
  for (const ckpt::StepInfo& info : value_of(catalog.steps())) {
    const Result<ckpt::Commit> commit = catalog.load_commit(info.key);
    if (commit.ok()) generation = commit->generation;
    out.emplace_back(info.key.step, info.key.claim, generation,
                     info.status.ok() ? "" : info.status.to_string());
  }
  return out;
}

// Of the folder's owner: -1 if nobody ever had it.
int64_t owner_generation(const std::string& folder) {
  const auto store = value_of(ckpt::open_store(folder));
  const auto owner = value_of(ckpt::Catalog(*store).owner());
  return owner ? static_cast<int64_t>(owner->generation) : -1;
}

}  // namespace

void bind_reader(pybind11::module_& module) {
  py::class_<Reader>(module, "CheckpointReader")
      .def_property_readonly("step", [](const Reader& reader) { return reader.commit().step; })
      .def_property_readonly("notes", [](const Reader& reader) { return reader.commit().notes; })
      .def_property_readonly("name", &Reader::name)
      .def("tensors", &tensors_of)
      .def(
          "load",
          [](Reader& reader, const std::vector<PyTensor>& tensors, const ProcessGroup& group,
             int threads, uint64_t staging_bytes, Reader* other) {
            const State state = state_of(tensors);
            ckpt::LoadReport report;
            {
              const py::gil_scoped_release release;
              report = reader.load(state, group, threads, staging_bytes, other);
            }
            return report_of(report);
          },
          py::arg("tensors"), py::arg("group"), py::arg("threads"), py::arg("staging_bytes"),
          py::arg("other") = nullptr);
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  module.def("open_step", &Reader::in_folder, no_gil);
  module.def("open_memory", &Reader::in_memory, no_gil);
  module.def("open_peers", &Reader::in_peers, no_gil);
  module.def("steps_in", &steps_in, no_gil);
  module.def("owner_generation", &owner_generation, no_gil);
}

}  // namespace convoy::python
