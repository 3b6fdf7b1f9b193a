#pragma once

#include <convoy/trace/export.h>

namespace convoy::trace {

// What the library holds, and how core finds it there.
using CreateParquet = Status(const std::filesystem::path& folder, const Registry& registry,
                             const Survey& survey, std::unique_ptr<Exporter>& out);
inline constexpr const char* kParquetLibrary = "libconvoy_parquet.so";
inline constexpr const char* kCreateParquetSymbol = "convoy_create_parquet";

}  // namespace convoy::trace
