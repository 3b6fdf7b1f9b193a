// An extension module that takes groups of torch.distributed and runs Convoy's layers on them; what
// handed_groups.py checks is described there. No function here holds the interpreter lock while it
// works: collectives wait for other ranks, and autograd refuses to run under it.
#include "tests/parallel/truth/compare.h"
#include <convoy/comm/group.h>
#include <convoy/comm/mesh_groups.h>

#include <ATen/ops/empty_like.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <pybind11/stl.h>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace convoy::truth {
namespace {

using GivenGroup = c10::intrusive_ptr<c10d::ProcessGroup>;
// By the dimensions of the mesh that a group lies along.
using GivenGroups = std::map<std::vector<std::string>, GivenGroup>;

// How far training `cell` on the given groups is from the one-process run, in units of its bound;
// where; and the loss and norm of each step.
std::tuple<double, std::string, std::vector<double>> train(const Cell& cell, int rank,
                                                           const GivenGroups& given) {
  comm::MeshGroups groups(Mesh::parse(cell.mesh(), cell.ranks()).value(), rank, nullptr);
  for (const auto& [names, group] : given) {
    const std::vector<std::string_view> views(names.begin(), names.end());
    groups.adopt(views, group);
  }
  Trace trace;
  const Worst worst = compare(cell, groups, &trace);
  return {worst.ratio, worst.where, trace.numbers};
}

at::Tensor all_gather(const GivenGroup& group, const at::Tensor& shard,
                      const std::vector<int64_t>& sizes) {
  return comm::Group(group).all_gather(shard, sizes);
}

// Blocking and started.
std::pair<at::Tensor, at::Tensor> reduce_scatter(const GivenGroup& given, const at::Tensor& full,
                                                 const std::vector<int64_t>& sizes) {
  const comm::Group group(given);
  at::Tensor shard;
  comm::Pending pending = group.start_reduce_scatter(full, sizes, &shard);
  pending.wait();
  return {group.reduce_scatter(full, sizes), shard};
}

// What comes from the previous rank when each sends `tensors` to the next one, all in flight.
std::vector<at::Tensor> shift(const GivenGroup& given, const std::vector<at::Tensor>& tensors) {
  const comm::Group group(given);
  const int next = (group.rank() + 1) % group.size();
  const int previous = (group.rank() + group.size() - 1) % group.size();
  std::vector<at::Tensor> received;
  std::vector<comm::Pending> pending;
  for (const at::Tensor& tensor : tensors) {
    received.push_back(at::empty_like(tensor));
    pending.push_back(group.start_recv(received.back(), previous));
    pending.push_back(group.start_send(tensor, next));
  }
  for (comm::Pending& one : pending) one.wait();
  return received;
}

}  // namespace
}  // namespace convoy::truth

PYBIND11_MODULE(handed_groups, module) {
  using convoy::truth::Cell;
  using Released = pybind11::call_guard<pybind11::gil_scoped_release>;
  // c10d::ProcessGroup is torch's to register.
  pybind11::module_::import("torch._C._distributed_c10d");
  pybind11::class_<Cell>(module, "Cell")
      .def(pybind11::init([](int tp, int pp, int dp) {
        return Cell{tp, pp, dp};
      }))
      .def_readwrite("schedule", &Cell::schedule)
      .def_readwrite("chunks", &Cell::chunks)
      .def_readwrite("sequence_parallel", &Cell::sequence_parallel)
      .def_readwrite("zero", &Cell::zero)
      .def_readwrite("recompute", &Cell::recompute)
      .def_readwrite("tied", &Cell::tied)
      .def("mesh", &Cell::mesh)
      .def("name", &Cell::name);
  module.def("train", &convoy::truth::train, Released());
  module.def("all_gather", &convoy::truth::all_gather, Released());
  module.def("reduce_scatter", &convoy::truth::reduce_scatter, Released());
  module.def("shift", &convoy::truth::shift, Released());
}
