#include "trace/parquet/plugin.h"
#include <convoy/base/library.h>

#include <system_error>

namespace convoy::trace {

Result<std::unique_ptr<Exporter>> create_parquet(const std::filesystem::path& folder,
                                                 const Registry& registry, const Survey& survey) {
  CONVOY_ASSIGN_OR_RETURN(
      void* const create,
      find_in_arrow_plugin({"Parquet files", kParquetLibrary, kCreateParquetSymbol, "libparquet"}));
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return errno_status("cannot make the folder " + folder.string(), error.value());
  std::unique_ptr<Exporter> out;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<CreateParquet*>(create)(folder, registry, survey, out));
  return out;
}

}  // namespace convoy::trace
