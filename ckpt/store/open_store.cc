// Which store a path or URI means. Arrow is loaded when the first URI needs it: programs without
// object stores start without it, and run where it is not installed.
#include "ckpt/arrow/plugin.h"
#include <convoy/ckpt/store.h>

#include <cctype>
#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <mutex>

#ifndef CONVOY_ARROW_VERSION
#define CONVOY_ARROW_VERSION ""  // none was there when this was built
#define CONVOY_ARROW_SONAME ""
#define CONVOY_ARROW_FOLDER ""
#endif

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;

// The folder of this library.
std::string own_folder() {
  Dl_info info = {};
  if (::dladdr(reinterpret_cast<const void*>(&is_store_uri), &info) == 0) return ".";
  return fs::path(info.dli_fname).parent_path().string();
}

Status not_there(const std::string& looked) {
  return {Code::kInvalidArgument,
          std::string("object stores need Arrow's libraries: install pyarrow==") +
              CONVOY_ARROW_VERSION +
              " with pip, or set CONVOY_ARROW to a folder with libarrow.so." + CONVOY_ARROW_SONAME +
              " and libarrow_s3.so." + CONVOY_ARROW_SONAME + ". Looked at: " + looked + "."};
}

// Loads libarrow from the first folder that has it, so that libconvoy_arrow finds it loaded.
Status load_arrow() {
  const char* const named = std::getenv("CONVOY_ARROW");
  const std::string own = own_folder();
  const std::string folders[] = {named != nullptr ? named : "", CONVOY_ARROW_FOLDER,
                                 own + "/../pyarrow", own + "/../../pyarrow"};
  std::string looked;
  for (const std::string& folder : folders) {
    if (folder.empty()) continue;
    bool all = true;
    for (const char* name : {"/libarrow.so.", "/libarrow_s3.so."}) {
      if (!all) break;
      all = ::dlopen((folder + name + CONVOY_ARROW_SONAME).c_str(), RTLD_NOW) != nullptr;
    }
    if (all) return ok_status();
    looked += (looked.empty() ? "" : "; ") + std::string(::dlerror());
  }
  return not_there(looked);
}

Result<OpenArrowStore*> load_plugin() {
  if (std::string(CONVOY_ARROW_VERSION).empty()) {
    return Status(Code::kInvalidArgument,
                  "object stores need Arrow, and this Convoy was built without: install pyarrow 26 "
                  "and libcurl, and build again.");
  }
  CONVOY_RETURN_IF_ERROR(load_arrow());
  const std::string path = own_folder() + "/" + kArrowLibrary;
  void* const library = ::dlopen(path.c_str(), RTLD_NOW);
  if (library == nullptr) {
    return Status(Code::kInvalidArgument,
                  "object stores need " + path + ", a part of Convoy: " + ::dlerror());
  }
  void* const symbol = ::dlsym(library, kOpenArrowStoreSymbol);
  CONVOY_CHECK(symbol != nullptr, path + " is another Convoy's");
  return reinterpret_cast<OpenArrowStore*>(symbol);
}

// "file:///a%20b" -> "/a b"
Result<std::string> local_path(const std::string& uri) {
  std::string rest = uri.substr(sizeof("file://") - 1);
  if (rest.starts_with("localhost/")) rest.erase(0, sizeof("localhost") - 1);
  std::string path;
  for (size_t i = 0; i < rest.size(); ++i) {
    const bool code = rest[i] == '%' && i + 2 < rest.size() &&
                      std::isxdigit(static_cast<unsigned char>(rest[i + 1])) != 0 &&
                      std::isxdigit(static_cast<unsigned char>(rest[i + 2])) != 0;
    path += code ? static_cast<char>(std::stoi(rest.substr(i + 1, 2), nullptr, 16)) : rest[i];
    i += code ? 2 : 0;
  }
  if (path.starts_with('/') && path.find('\0') == std::string::npos) return path;
  return Status(Code::kInvalidArgument, "'" + uri + "' names no path: file:///… does.");
}

}  // namespace

bool is_store_uri(std::string_view where) {
  const size_t end = where.find("://");
  if (end == std::string_view::npos || end == 0) return false;
  for (const char c : where.substr(0, end)) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!letter && c != '+' && c != '-' && c != '.') return false;
  }
  return true;
}

Result<std::unique_ptr<Store>> open_store(const std::string& where, const StoreOptions& options) {
  if (!is_store_uri(where)) return open_local_store(where);
  if (where.starts_with("file://")) {
    CONVOY_ASSIGN_OR_RETURN(const std::string path, local_path(where));
    return open_local_store(path);
  }
  static std::mutex mutex;
  static OpenArrowStore* open = nullptr;
  {
    const std::lock_guard lock(mutex);
    if (open == nullptr) {
      CONVOY_ASSIGN_OR_RETURN(open, load_plugin());
    }
  }
  std::unique_ptr<Store> store;
  CONVOY_RETURN_IF_ERROR(open(where, options, store));
  return store;
}

}  // namespace convoy::ckpt
