// Opens libconvoy_cluster, which lies beside libconvoy_core. By hand and not by the linker: gRPC
// costs 11 ms at the start of each program that has it, and most need none.
#include "ckpt/service/cluster.h"

#include <convoy/ckpt/peers.h>

#include <dlfcn.h>
#include <filesystem>

namespace convoy::ckpt {

namespace {

// Beside this library; its run path would do, but not under the address sanitizer, which stands
// between. Never closed: gRPC's threads live in it.
void* open_library() {
  const std::string name = "libconvoy_cluster.so.0";
  Dl_info self{};
  if (::dladdr(reinterpret_cast<void*>(&open_library), &self) != 0) {
    const std::string beside =
        (std::filesystem::path(self.dli_fname).parent_path() / name).string();
    void* const library = ::dlopen(beside.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) return library;
  }
  return ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
}

Result<void*> find_in_library(const char* function) {
  void* const library = open_library();
  if (library == nullptr) {
    return Status(Code::kFailedPrecondition,
                  std::string("checkpoints of jobs on several machines need libconvoy_cluster.so.0 "
                              "beside libconvoy_core: ") +
                      ::dlerror());
  }
  void* found = ::dlsym(library, function);
  if (found != nullptr) return found;
  return Status(Code::kFailedPrecondition,
                "libconvoy_cluster.so.0 is of another Convoy than libconvoy_core");
}

}  // namespace

Result<std::unique_ptr<Cluster>> load_cluster(const ClusterListen& listen) {
  using Open = Status(const ClusterListen&, std::unique_ptr<Cluster>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found, find_in_library("convoy_ckpt_open_cluster"));
  std::unique_ptr<Cluster> cluster;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Open*>(found)(listen, cluster));
  return cluster;
}

Result<std::unique_ptr<StepSource>> open_in_peers(const PeersPlace& place) {
  using Open = Status(const PeersPlace&, std::unique_ptr<StepSource>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found, find_in_library("convoy_ckpt_open_peers"));
  std::unique_ptr<StepSource> source;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Open*>(found)(place, source));
  return source;
}

}  // namespace convoy::ckpt
