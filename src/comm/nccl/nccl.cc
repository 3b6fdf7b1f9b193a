// Loads libconvoy_nccl when the first NCCL group is made, so that CPU programs do without
// libtorch_cuda.
#include "src/comm/nccl/plugin.h"
#include <convoy/comm/nccl.h>
#include <convoy/trace/nccl.h>

#include <c10/util/Exception.h>

#include <dlfcn.h>
#include <string>

namespace convoy::comm {
namespace {

void* library() {
  // Found beside this library, through its run path.
  static void* const loaded = ::dlopen(kNcclLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (loaded == nullptr) {
    C10_THROW_ERROR(DistBackendError, std::string("unavailable: can't load ") + kNcclLibrary +
                                          ": " + ::dlerror() +
                                          ". NCCL groups need the NVIDIA driver and libtorch_cuda");
  }
  return loaded;
}

template <class Function>
Function* function(const char* name) {
  void* symbol = ::dlsym(library(), name);
  TORCH_INTERNAL_ASSERT(symbol != nullptr, kNcclLibrary, " lacks ", name);
  return reinterpret_cast<Function*>(symbol);
}

}  // namespace

bool built_with_nccl() {
  return true;
}

int load_cuda() {
  return function<CountGpus>(kCountGpusSymbol)();
}

c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int size, const NcclOptions& options) {
  // NCCL's profiler plugin, if it is there, is told numbers within the communicator only. Before
  // that is made; torch names it after its group.
  trace::name_communicator(options.name,
                           {options.global_ranks.begin(), options.global_ranks.end()});
  c10::intrusive_ptr<c10d::Backend> group;
  function<MakeNcclGroup>(kMakeNcclGroupSymbol)(store, rank, size, options, group);
  return group;
}

void abort_together(const std::function<void()>& aborts) {
  auto* const nccl_group = function<NcclGroup>(kNcclGroupSymbol);
  const auto check = [](const char* call, int result) {
    if (result == 0) return;
    C10_THROW_ERROR(DistBackendError, std::string("internal: ") + call + " returned " +
                                          std::to_string(result) + " for groups that are aborted");
  };
  check("ncclGroupStart", nccl_group(true));
  try {
    aborts();
  } catch (...) {
    nccl_group(false);
    throw;
  }
  check("ncclGroupEnd", nccl_group(false));
}

}  // namespace convoy::comm
