// Opens libraries by hand and not by the linker: gRPC costs 11 ms at the start of each program that
// has it, and most need none; Arrow is not installed everywhere.
#include <convoy/base/library.h>

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <string>

#ifndef CONVOY_ARROW_VERSION
#define CONVOY_ARROW_VERSION ""  // none was there when this was built
#define CONVOY_ARROW_SONAME ""
#define CONVOY_ARROW_FOLDER ""
#endif

namespace convoy {
namespace {

// Where this library lies; its run path would do, but not under the address sanitizer, which stands
// between.
std::string own_folder() {
  Dl_info self{};
  if (::dladdr(reinterpret_cast<void*>(&find_in_cluster_library), &self) == 0) return ".";
  return std::filesystem::path(self.dli_fname).parent_path().string();
}

void* open_cluster_library() {
  const std::string name = "libconvoy_cluster.so.0";
  void* const library = ::dlopen((own_folder() + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  return library != nullptr ? library : ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
}

// So that the plugin finds it loaded.
Status load_arrow(const ArrowPlugin& plugin) {
  const char* const named = std::getenv("CONVOY_ARROW");
  const std::string own = own_folder();
  const std::string folders[] = {named != nullptr ? named : "", CONVOY_ARROW_FOLDER,
                                 own + "/../pyarrow", own + "/../../pyarrow"};
  const std::string core = std::string("libarrow.so.") + CONVOY_ARROW_SONAME;
  const std::string part = std::string(plugin.arrow_part) + ".so." + CONVOY_ARROW_SONAME;
  std::string looked;
  for (const std::string& folder : folders) {
    if (folder.empty()) continue;
    if (::dlopen((folder + "/" + core).c_str(), RTLD_NOW) != nullptr &&
        ::dlopen((folder + "/" + part).c_str(), RTLD_NOW) != nullptr) {
      return ok_status();
    }
    looked += (looked.empty() ? "" : "; ") + std::string(::dlerror());
  }
  return {Code::kInvalidArgument,
          std::string(plugin.what_for) + " need Arrow's libraries: install pyarrow==" +
              CONVOY_ARROW_VERSION + " with pip, or set CONVOY_ARROW to a folder with " + core +
              " and " + part + ". Looked at: " + looked + "."};
}

}  // namespace

Result<void*> find_in_cluster_library(const char* function, const char* what_for) {
  void* const library = open_cluster_library();
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

Result<void*> find_in_arrow_plugin(const ArrowPlugin& plugin) {
  if (std::string(CONVOY_ARROW_VERSION).empty()) {
    return Status(Code::kInvalidArgument,
                  std::string(plugin.what_for) +
                      " need Arrow, and this Convoy was built without: install pyarrow 26 and "
                      "libcurl, and build again.");
  }
  CONVOY_RETURN_IF_ERROR(load_arrow(plugin));
  const std::string path = own_folder() + "/" + plugin.library;
  void* const library = ::dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr) {
    return Status(Code::kInvalidArgument, std::string(plugin.what_for) + " need " + path +
                                              ", a part of Convoy: " + ::dlerror());
  }
  void* const found = ::dlsym(library, plugin.function);
  CONVOY_CHECK(found != nullptr, path + " is another Convoy's");
  return found;
}

}  // namespace convoy
