// Arrow's libraries are loaded when the first Parquet file is written: programs that write none
// start without them, and run where they are not installed.
#include "trace/parquet/plugin.h"

#include <cstdlib>
#include <dlfcn.h>
#include <mutex>
#include <system_error>

#ifndef CONVOY_ARROW_VERSION
#define CONVOY_ARROW_VERSION ""  // none was there when this was built
#define CONVOY_ARROW_SONAME ""
#define CONVOY_ARROW_FOLDER ""
#endif

namespace convoy::trace {
namespace {

namespace fs = std::filesystem;

std::string own_folder() {
  Dl_info info = {};
  if (::dladdr(reinterpret_cast<const void*>(&create_parquet), &info) == 0) return ".";
  return fs::path(info.dli_fname).parent_path().string();
}

// libarrow and libparquet from the first folder that has them, so that our library finds them
// loaded.
Status load_arrow() {
  const char* const named = std::getenv("CONVOY_ARROW");
  const std::string own = own_folder();
  const std::string folders[] = {named != nullptr ? named : "", CONVOY_ARROW_FOLDER,
                                 own + "/../pyarrow", own + "/../../pyarrow"};
  std::string looked;
  for (const std::string& folder : folders) {
    if (folder.empty()) continue;
    bool all = true;
    for (const char* name : {"/libarrow.so.", "/libparquet.so."}) {
      if (!all) break;
      all = ::dlopen((folder + name + CONVOY_ARROW_SONAME).c_str(), RTLD_NOW) != nullptr;
    }
    if (all) return ok_status();
    looked += (looked.empty() ? "" : "; ") + std::string(::dlerror());
  }
  return {Code::kInvalidArgument,
          std::string("Parquet files need Arrow's libraries: install pyarrow==") +
              CONVOY_ARROW_VERSION +
              " with pip, or set CONVOY_ARROW to a folder with libarrow.so." + CONVOY_ARROW_SONAME +
              " and libparquet.so." + CONVOY_ARROW_SONAME + ". Looked at: " + looked + "."};
}

Result<CreateParquet*> load_plugin() {
  if (std::string(CONVOY_ARROW_VERSION).empty()) {
    return Status(Code::kInvalidArgument,
                  "Parquet files need Arrow, and this Convoy was built without: install pyarrow 26 "
                  "and build again.");
  }
  CONVOY_RETURN_IF_ERROR(load_arrow());
  const std::string path = own_folder() + "/" + kParquetLibrary;
  void* const library = ::dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr) {
    return Status(Code::kInvalidArgument,
                  "Parquet files need " + path + ", a part of Convoy: " + ::dlerror());
  }
  void* const symbol = ::dlsym(library, kCreateParquetSymbol);
  CONVOY_CHECK(symbol != nullptr, path + " is another Convoy's");
  return reinterpret_cast<CreateParquet*>(symbol);
}

}  // namespace

Result<std::unique_ptr<Exporter>> create_parquet(const fs::path& folder, const Registry& registry,
                                                 const Survey& survey) {
  static std::mutex mutex;
  static CreateParquet* create = nullptr;
  {
    const std::lock_guard lock(mutex);
    if (create == nullptr) {
      CONVOY_ASSIGN_OR_RETURN(create, load_plugin());
    }
  }
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return errno_status("cannot make the folder " + folder.string(), error.value());
  std::unique_ptr<Exporter> out;
  CONVOY_RETURN_IF_ERROR(create(folder, registry, survey, out));
  return out;
}

}  // namespace convoy::trace
