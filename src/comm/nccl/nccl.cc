// Loads libconvoy_nccl when the first NCCL group is made, so that CPU programs do without
// libtorch_cuda.
#include "src/comm/nccl/plugin.h"
#include <convoy/comm/nccl.h>

#include <c10/util/Exception.h>

#include <dlfcn.h>
#include <string>

namespace convoy::comm {
namespace {

MakeNcclGroup* load() {
  // Found beside this library, through its run path.
  void* library = ::dlopen(kNcclLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    C10_THROW_ERROR(DistBackendError, std::string("unavailable: can't load ") + kNcclLibrary +
                                          ": " + ::dlerror() +
                                          ". NCCL groups need the NVIDIA driver and libtorch_cuda");
  }
  void* symbol = ::dlsym(library, kMakeNcclGroupSymbol);
  TORCH_INTERNAL_ASSERT(symbol != nullptr, kNcclLibrary, " lacks ", kMakeNcclGroupSymbol);
  return reinterpret_cast<MakeNcclGroup*>(symbol);
}

}  // namespace

bool built_with_nccl() {
  return true;
}

c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int size, const NcclOptions& options) {
  static MakeNcclGroup* const make = load();  // tried again by the next call if it throws
  c10::intrusive_ptr<c10d::Backend> group;
  make(store, rank, size, options, group);
  return group;
}

}  // namespace convoy::comm
