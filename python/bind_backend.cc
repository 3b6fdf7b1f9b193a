// The c10d backend and the shared allocator for Python. c10d binds the collectives themselves: the
// base class is torch's, so only making a group and its options are ours.
#include "python/bindings.h"
#include <convoy/comm/allocator.h>
#include <convoy/comm/backend.h>

#include <torch/csrc/utils/pybind.h>

#include <pybind11/chrono.h>
#include <pybind11/stl.h>
#include <utility>

namespace convoy::python {

// Holds a C++ object that waits for threads when it goes: they may need the interpreter lock, so
// the last reference is dropped without it. Of the same layout as intrusive_ptr, which is what
// torch's own bindings take it for when they see the base class.
template <class T>
class NoGilPtr {
 public:
  using element_type = T;
  NoGilPtr() = default;
  NoGilPtr(c10::intrusive_ptr<T> held) : held_(std::move(held)) {}  // NOLINT
  explicit NoGilPtr(T* raw) : held_(c10::intrusive_ptr<T>::unsafe_steal_from_new(raw)) {}
  NoGilPtr(const NoGilPtr&) = default;
  NoGilPtr(NoGilPtr&&) noexcept = default;
  NoGilPtr& operator=(const NoGilPtr&) = default;
  NoGilPtr& operator=(NoGilPtr&&) noexcept = default;
  ~NoGilPtr() {
    if (!held_) return;
    if (PyGILState_Check()) {
      const pybind11::gil_scoped_release release;
      held_.reset();
    } else {
      held_.reset();
    }
  }
  T* get() const { return held_.get(); }

 private:
  c10::intrusive_ptr<T> held_;
};
static_assert(sizeof(NoGilPtr<comm::Backend>) == sizeof(c10::intrusive_ptr<c10d::Backend>));

}  // namespace convoy::python

PYBIND11_DECLARE_HOLDER_TYPE(T, convoy::python::NoGilPtr<T>, true)

namespace convoy::python {
namespace {

using comm::Backend;
using Options = comm::Backend::Options;

NoGilPtr<Backend> make_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                               const c10::intrusive_ptr<Options>& options) {
  const pybind11::gil_scoped_release release;
  return c10::make_intrusive<Backend>(store, rank, size, options);
}

}  // namespace

void bind_backend(pybind11::module_& module) {
  // torch's classes, which ours derive from, must be known first.
  const auto c10d = pybind11::module_::import("torch._C._distributed_c10d");
  const pybind11::object base = c10d.attr("Backend");
  const pybind11::object base_options = base.attr("Options");

  pybind11::class_<Options, c10::intrusive_ptr<Options>>(
      module, "Options", base_options,
      "Options of a group: those of c10d, and `patience`, after which a warning names missing "
      "ranks.")
      .def(pybind11::init([] { return c10::make_intrusive<Options>(); }))
      .def("copy", [](const Options& options) { return c10::make_intrusive<Options>(options); })
      .def_readwrite("patience", &Options::patience);

  pybind11::class_<Backend, NoGilPtr<Backend>>(module, "Backend", base,
                                               "A group of the c10d backend `convoy`.")
      .def(pybind11::init(&make_backend), pybind11::arg("store"), pybind11::arg("rank"),
           pybind11::arg("size"), pybind11::arg("options"))
      .def_property_readonly("is_local", &Backend::is_local,
                             "Whether all ranks share this machine's memory.");

  module.def("enable_shared_tensors", &comm::enable_shared_tensors);
  module.def("disable_shared_tensors", &comm::disable_shared_tensors);
  module.def("shared_tensors_enabled", &comm::shared_tensors_enabled);
  module.def("is_shared", &comm::is_shared);
  module.def("empty_shared", [](const std::vector<int64_t>& sizes, at::ScalarType dtype) {
    return comm::empty_shared(sizes, dtype);
  });
}

}  // namespace convoy::python
