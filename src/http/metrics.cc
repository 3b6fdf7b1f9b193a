#include "src/http/metrics.h"

#include <cstdio>

namespace convoy::http {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string label(std::string_view name, std::string_view value) {
  return std::string(name) + "=\"" + escaped(value) + "\"";
}

void MetricsText::family(const char* name, const char* type, const char* help) {
  name_ = name;
  text_ += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

void MetricsText::sample(double value, const std::string& labels, const char* suffix) {
  char number[32];
  std::snprintf(number, sizeof number, "%.9g", value);
  text_ += name_;
  text_ += suffix;
  text_ += "{" + job_ + (labels.empty() ? "" : "," + labels) + "} " + number + "\n";
}

void MetricsText::one(const char* name, const char* type, const char* help, double value) {
  family(name, type, help);
  sample(value);
}

}  // namespace convoy::http
