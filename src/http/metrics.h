#pragma once

#include <string>
#include <string_view>
#include <utility>

// Prometheus' text format, version 0.0.4.
namespace convoy::http {

inline constexpr const char* kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

// label("kind", "tp") → kind="tp"
std::string label(std::string_view name, std::string_view value);

// Metrics of one job, each sample with its name ("job" is a label of Prometheus' own).
class MetricsText {
 public:
  explicit MetricsText(const std::string& job) : job_(label("job_name", job)) {}

  // Samples that follow belong to it; `type`: counter, gauge, summary, histogram.
  void family(const char* name, const char* type, const char* help);
  void sample(double value, const std::string& labels = "", const char* suffix = "");
  // A family of one sample.
  void one(const char* name, const char* type, const char* help, double value);
  std::string take() { return std::move(text_); }

 private:
  std::string job_, text_;
  const char* name_ = "";
};

}  // namespace convoy::http
