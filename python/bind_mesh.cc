// convoy::Mesh for Python. A failed Status becomes ValueError with its text.
#include "python/bindings.h"
#include <convoy/mesh/mesh.h>

#include <pybind11/stl.h>
#include <string>
#include <utility>
#include <vector>

namespace convoy::python {
namespace {

Mesh parse(const std::string& text, int world_size) {
  auto mesh = Mesh::parse(text, world_size);
  if (!mesh.ok()) throw pybind11::value_error(mesh.status().message());
  return std::move(*mesh);
}

// Ranks come from a user here, not from a program that was checked.
int checked(const Mesh& mesh, int rank) {
  if (rank >= 0 && rank < mesh.size()) return rank;
  throw pybind11::value_error("rank " + std::to_string(rank) + " is not in a mesh of " +
                              std::to_string(mesh.size()));
}

std::vector<std::string_view> views(const std::vector<std::string>& names) {
  return {names.begin(), names.end()};
}

std::vector<std::pair<std::string, int>> dims_of(const Mesh& mesh) {
  std::vector<std::pair<std::string, int>> dims;
  for (const MeshDim& dim : mesh.dims()) dims.emplace_back(dim.name, dim.size);
  return dims;
}

}  // namespace

void bind_mesh(pybind11::module_& module) {
  pybind11::class_<Mesh>(module, "Mesh")
      .def(pybind11::init(&parse))
      .def_property_readonly("dims", &dims_of)
      .def("size", [](const Mesh& mesh) { return mesh.size(); })
      .def("size_of", [](const Mesh& mesh, const std::string& name) { return mesh.size(name); })
      .def("coordinate",
           [](const Mesh& mesh, int rank, const std::string& name) {
             return mesh.coordinate(checked(mesh, rank), name);
           })
      .def("group_of",
           [](const Mesh& mesh, int rank, const std::vector<std::string>& names) {
             return mesh.group_of(checked(mesh, rank), views(names));
           })
      .def("groups",
           [](const Mesh& mesh, const std::vector<std::string>& names) {
             return mesh.groups(views(names));
           })
      .def("to_string", &Mesh::to_string);
}

}  // namespace convoy::python
