// Metrics as JSON lines.
#include <convoy/runtime/metrics.h>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cmath>
#include <fstream>

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

Result<std::map<int64_t, double>> read_metric(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  if (!file) return errno_status("can't read metrics from '" + path + "'", errno);
  std::map<int64_t, double> out;
  for (std::string text; std::getline(file, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    const auto value = line.find(name);
    if (value != line.end() && value->is_number()) out[line["step"]] = *value;
  }
  return out;
}

}  // namespace convoy::runtime
