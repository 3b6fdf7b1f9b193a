// The extension convoy._C: only the list of its parts. Policy is in the .py files.
#include "python/bindings.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Convoy's C++ side; use the package `convoy` instead.";
  convoy::python::bind_backend(module);
  convoy::python::bind_checkpoint(module);
  convoy::python::bind_reader(module);
  convoy::python::bind_mesh(module);
  convoy::python::bind_recovery(module);
  convoy::python::bind_trace(module);
}
