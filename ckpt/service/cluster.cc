// Opens libconvoy_cluster, which lies beside libconvoy_core. By hand and not by the linker: gRPC
// costs 11 ms at the start of each program that has it, and most need none.
#include "ckpt/service/cluster.h"

#include <dlfcn.h>

namespace convoy::ckpt {

Result<std::unique_ptr<Cluster>> load_cluster(const ClusterListen& listen) {
  using Open = Status(const ClusterListen&, std::unique_ptr<Cluster>&);
  // Never closed: gRPC's threads live in it.
  void* library = ::dlopen("libconvoy_cluster.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Status(Code::kFailedPrecondition,
                  std::string("checkpoints of jobs on several machines need libconvoy_cluster.so.0 "
                              "beside libconvoy_core: ") +
                      ::dlerror());
  }
  auto* open = reinterpret_cast<Open*>(::dlsym(library, "convoy_ckpt_open_cluster"));
  if (open == nullptr) {
    return Status(Code::kFailedPrecondition,
                  "libconvoy_cluster.so.0 is of another Convoy than libconvoy_core");
  }
  std::unique_ptr<Cluster> cluster;
  CONVOY_RETURN_IF_ERROR(open(listen, cluster));
  return cluster;
}

}  // namespace convoy::ckpt
