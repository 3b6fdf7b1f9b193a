// Which store a path or URI means. Arrow is loaded when the first URI needs it: programs without
// object stores start without it, and run where it is not installed.
#include "ckpt/arrow/plugin.h"
#include <convoy/base/library.h>
#include <convoy/ckpt/store.h>

#include <cctype>

namespace convoy::ckpt {
namespace {

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
  CONVOY_ASSIGN_OR_RETURN(
      void* const open,
      find_in_arrow_plugin({"object stores", kArrowLibrary, kOpenArrowStoreSymbol, "libarrow_s3"}));
  std::unique_ptr<Store> store;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<OpenArrowStore*>(open)(where, options, store));
  return store;
}

}  // namespace convoy::ckpt
