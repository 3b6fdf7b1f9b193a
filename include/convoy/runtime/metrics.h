#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace convoy::runtime {

// Appends one JSON object a line to a file, flushed after each, so that a killed run keeps what it
// measured. One writer a file; not thread-safe.
class MetricsWriter {
 public:
  static Result<MetricsWriter> open(const std::string& path);

  // Numbers that are not finite are written as null. Fails with the path when the disk does.
  Status write(const std::vector<std::pair<std::string, double>>& fields);

 private:
  MetricsWriter(std::FILE* file, std::string path)
      : file_(file, &std::fclose), path_(std::move(path)) {}

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string path_;
};

// The value of `name` by step, of all lines of a metrics file that have it; a later line of a step
// replaces an earlier one, as a resumed run leaves them. Lines that are no JSON (the last one of a
// killed run) are passed over. kNotFound.
Result<std::map<int64_t, double>> read_metric(const std::string& path, const std::string& name);

}  // namespace convoy::runtime
