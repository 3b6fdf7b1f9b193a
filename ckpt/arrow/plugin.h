#pragma once

#include <convoy/ckpt/store.h>

#include <memory>
#include <string>

// What libconvoy_arrow offers to libconvoy_core.
namespace convoy::ckpt {

inline constexpr const char* kArrowLibrary = "libconvoy_arrow.so";
inline constexpr const char* kOpenArrowStoreSymbol = "convoy_open_arrow_store";
// Puts into `store` what open_store() returns.
using OpenArrowStore = Status(const std::string& uri, const StoreOptions& options,
                              std::unique_ptr<Store>& store);

}  // namespace convoy::ckpt
