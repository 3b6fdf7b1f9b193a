#pragma once

#include <pybind11/pybind11.h>

// What the files of the extension convoy._C add to it.
namespace convoy::python {

void bind_backend(pybind11::module_& module);
void bind_checkpoint(pybind11::module_& module);
void bind_reader(pybind11::module_& module);
void bind_mesh(pybind11::module_& module);
void bind_recovery(pybind11::module_& module);
void bind_trace(pybind11::module_& module);

}  // namespace convoy::python
