// Opens libconvoy_cluster, which lies beside libconvoy_core. By hand and not by the linker: gRPC
// costs 11 ms at the start of each program that has it, and most need none.
#include <convoy/base/cluster_library.h>

#include <dlfcn.h>
#include <filesystem>
#include <string>

namespace convoy {
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

}  // namespace

Result<void*> find_in_cluster_library(const char* function, const char* what_for) {
  void* const library = open_library();
  if (library == nullptr) {
    return Status(Code::kFailedPrecondition,
                  std::string(what_for) +
                      " need libconvoy_cluster.so.0 beside libconvoy_core: " + ::dlerror());
  }
  void* found = ::dlsym(library, function);
  if (found != nullptr) return found;
  return Status(Code::kFailedPrecondition,
                "libconvoy_cluster.so.0 is of another Convoy than libconvoy_core");
}

}  // namespace convoy
