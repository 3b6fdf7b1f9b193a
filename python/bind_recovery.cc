// A rank's line to its supervisor, for Python: what recovery.py is made of. Whatever blocks lets go
// of the interpreter lock, and what a summons sets off never takes it: a rank may hang in native
// code that holds it.
#include "python/bindings.h"
#include "python/checkpoint_state.h"
#include "python/group_watch.h"
#include "python/led_store.h"
#include "python/status_error.h"
#include "src/comm/host/tcp_socket.h"
#include "src/runtime/start.h"
#include "src/runtime/store_server.h"
#include <convoy/base/config.h>
#include <convoy/base/vitals.h>
#include <convoy/launch/environment.h>
#include <convoy/resilience/member.h>
#include <convoy/trace/recorder.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/stl.h>
#include <set>
#include <tuple>
#include <utility>

namespace convoy::python {
namespace {

namespace py = pybind11;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using resilience::Summons;

std::chrono::milliseconds to_ms(Nanos time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time);
}

class Led {
 public:
  // kUnavailable: nobody listens at CONVOY_CONTROL.
  Led()
      : environment_(value_of(launch::read_environment())),
        member_(value_of(resilience::Member::join(environment_.control))) {
    member_->on_summons([this] { watch_.abort(); });
  }
  ~Led() {
    member_.reset();  // its thread calls watch_
    watch_.clear();
  }
  Led(const Led&) = delete;
  Led& operator=(const Led&) = delete;

  bool is_standby() const { return environment_.standby; }
  bool summoned() const { return member_->summoned(); }

  // The store of the generation that the environment names.
  StorePtr first_store() {
    if (runtime::meets_in_folder(environment_)) {
      return led(runtime::folder_store(environment_, environment_.generation),
                 environment_.generation);
    }
    c10d::TCPStoreOptions options;
    options.port = environment_.master_port;
    options.timeout = to_ms(environment_.timeout);
    options.waitWorkers = false;
    const bool serves = environment_.rank == 0 && !environment_.store_is_served;
    return led(serves ? runtime::serve_store(environment_.master_addr, options)
                      : c10::make_intrusive<c10d::TCPStore>(environment_.master_addr, options),
               environment_.generation);
  }

  Summons await_summons(double timeout) { return value_of(member_->await_summons(nanos(timeout))); }

  // Its groups are left by now. Returns when all ranks of the generation are as far: their store,
  // and whether some of them have trained. kAborted: there is a later generation.
  std::pair<StorePtr, bool> enter(const Summons& summons) {
    environment_.rank = summons.rank;
    environment_.world_size = summons.world_size;
    environment_.local_rank = summons.local_rank;
    environment_.local_world_size = summons.local_world_size;
    StorePtr store;
    resilience::StorePlace place;
    if (summons.serves_store && !runtime::meets_in_folder(environment_)) {
      const auto served = runtime::serve_next_store(environment_);
      place = {value_of(host::choose_address("")), served->getPort()};
      store = served;
    }
    const resilience::Go go = value_of(member_->ready(summons, place, environment_.timeout));
    const int generation = static_cast<int>(summons.generation);
    if (!store) store = runtime::reach_store(environment_, generation, go.host, go.port);
    trace::begin_generation(summons.generation, summons.rank, summons.world_size);
    return {led(std::move(store), generation), go.has_survivors};
  }

  void watch(const ProcessGroup& group, const std::set<uint64_t>& before) {
    watch_.add(group, before);
    if (summoned()) watch_.abort();  // the announcement came before the group did
  }
  void abort() { watch_.abort(); }
  void leave() {
    watch_.abort();
    watch_.clear();
  }

  void running(uint64_t generation, int64_t resumed, const std::string& source, double joined,
               double loaded, double stepped) {
    member_->running(generation, {resumed + 1, resumed, source, joined, loaded, stepped});
  }
  void trouble(uint64_t generation, const std::string& text, int64_t step, bool is_mismatch,
               bool is_final) {
    const Code code = is_mismatch ? Code::kMismatch : Code::kAborted;
    member_->trouble(generation,
                     {.status = Status(code, text), .step = step, .is_final = is_final});
  }

 private:
  // Keys of one generation never meet another's.
  StorePtr led(StorePtr store, int generation) {
    store->setTimeout(to_ms(environment_.timeout));
    auto own = c10::make_intrusive<LedStore>(std::move(store),
                                             [m = member_.get()] { return m->summoned(); });
    return c10::make_intrusive<c10d::PrefixStore>(runtime::prefix_of(generation), std::move(own));
  }

  launch::Environment environment_;
  GroupWatch watch_;
  std::unique_ptr<resilience::Member> member_;
};

// Steps that are done, what the last one took, and whether they go on following each other.
void show(int64_t step, int64_t step_ns, bool training) {
  vitals().step_ns.store(step_ns, std::memory_order_relaxed);
  vitals().step.store(step, std::memory_order_relaxed);
  vitals().training.store(training ? 1 : 0, std::memory_order_relaxed);
}

}  // namespace

void bind_recovery(py::module_& module) {
  py::module_::import("torch._C._distributed_c10d");
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Summons>(module, "Summons")
      .def_readonly("generation", &Summons::generation)
      .def_readonly("rank", &Summons::rank)
      .def_readonly("world_size", &Summons::world_size)
      .def_readonly("local_rank", &Summons::local_rank)
      .def_readonly("local_world_size", &Summons::local_world_size)
      .def_readonly("mesh", &Summons::mesh)
      .def_readonly("reason", &Summons::reason);
  py::class_<Led>(module, "Led")
      .def(py::init<>(), no_gil)
      .def_property_readonly("is_standby", &Led::is_standby)
      .def("summoned", &Led::summoned)
      .def("first_store", &Led::first_store, no_gil)
      .def("await_summons", &Led::await_summons, no_gil)
      .def("enter", &Led::enter, no_gil)
      .def("watch", &Led::watch, no_gil)
      .def("abort", &Led::abort, no_gil)
      .def("leave", &Led::leave, no_gil)
      .def("running", &Led::running, py::arg("generation"), py::arg("resumed"), py::arg("source"),
           py::arg("joined"), py::arg("loaded"), py::arg("stepped"), no_gil)
      .def("trouble", &Led::trouble, no_gil);
  module.def("tcp_sockets", &GroupWatch::sockets);
  module.def("show_vitals", &show);
}

}  // namespace convoy::python
