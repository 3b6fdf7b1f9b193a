// Metrics as JSON lines.
#include <convoy/runtime/metrics.h>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cmath>

namespace convoy::runtime {

Result<MetricsWriter> MetricsWriter::open(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "a");
  if (file == nullptr) return errno_status("can't write metrics to '" + path + "'", errno);
  return MetricsWriter(file, path);
}

Status MetricsWriter::write(const std::vector<std::pair<std::string, double>>& fields) {
  nlohmann::ordered_json line;  // nlohmann writes numbers that are not finite as null
  for (const auto& [name, value] : fields) {
    const bool whole = std::fabs(value) < 1e15 && value == std::floor(value);
    if (whole) {
      line[name] = static_cast<int64_t>(value);
    } else {
      line[name] = value;
    }
  }
  const std::string text = line.dump() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() ||
      std::fflush(file_.get()) != 0) {
    return errno_status("can't write metrics to '" + path_ + "'", errno);
  }
  return ok_status();
}

}  // namespace convoy::runtime
