// Reports as JSON, and values as text. Files come from other nodes, so a report is read with every
// type checked.
#include "src/resilience/doctor/report.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <cstdio>

namespace convoy::resilience {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::array<std::string_view, 4> kVerdicts{"ok", "skipped", "warn", "fail"};
constexpr std::array<std::string_view, 3> kBetter{"neither", "higher", "lower"};

// File names need not be UTF-8.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json to_json_object(const CheckResult& r) {
  Json json = {{"name", r.name}};
  if (!r.subject.empty()) json["subject"] = r.subject;
  json["verdict"] = verdict_name(r.verdict);
  if (!r.unit.empty()) {
    json["value"] = r.value;
    json["unit"] = r.unit;
    json["better"] = kBetter[static_cast<size_t>(r.better)];
  }
  json["found"] = r.found;
  json["expected"] = r.expected;
  if (!r.advice.empty()) json["advice"] = r.advice;
  return json;
}

// The text under `key`; without it the text stays. False: it is no text.
bool read_text(const Json& json, const char* key, std::string& text) {
  const auto found = json.find(key);
  if (found == json.end()) return true;
  if (!found->is_string()) return false;
  text = found->get<std::string>();
  return true;
}

template <size_t Size>
int place_in(const std::array<std::string_view, Size>& names, std::string_view name) {
  for (size_t i = 0; i < Size; ++i) {
    if (names[i] == name) return static_cast<int>(i);
  }
  return -1;
}

bool read_result(const Json& json, CheckResult& r) {
  std::string verdict, better{kBetter[0]};
  if (!json.is_object() || !read_text(json, "name", r.name) || r.name.empty() ||
      !read_text(json, "subject", r.subject) || !read_text(json, "verdict", verdict) ||
      !read_text(json, "unit", r.unit) || !read_text(json, "better", better) ||
      !read_text(json, "found", r.found) || !read_text(json, "expected", r.expected) ||
      !read_text(json, "advice", r.advice)) {
    return false;
  }
  const int at_verdict = place_in(kVerdicts, verdict), at_better = place_in(kBetter, better);
  if (at_verdict < 0 || at_better < 0) return false;
  r.verdict = static_cast<Verdict>(at_verdict);
  r.better = static_cast<Better>(at_better);
  if (r.unit.empty()) return true;
  const auto value = json.find("value");
  if (value == json.end() || !value->is_number()) return false;
  r.value = value->get<double>();
  return std::isfinite(r.value);
}

bool read_results(const Json& json, Results& results) {
  if (!json.is_array()) return false;
  for (const Json& each : json) {
    if (!read_result(each, results.emplace_back())) return false;
  }
  return true;
}

Json array_of(const Results& results) {
  Json array = Json::array();
  for (const CheckResult& result : results) array.push_back(to_json_object(result));
  return array;
}

std::string with_unit(double value, const char* unit) {
  char text[64];
  const double size = std::abs(value);
  std::snprintf(text, sizeof text, size >= 100 || size == 0 ? "%.0f %s" : "%.3g %s", value, unit);
  return text;
}

std::string format_seconds(double seconds) {
  const double size = std::abs(seconds);
  if (size >= 1) return with_unit(seconds, "s");
  if (size >= 1e-3) return with_unit(seconds * 1e3, "ms");
  return with_unit(seconds * 1e6, "µs");
}

std::string format_amount(double bytes, const char* per) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) bytes /= 1024, ++unit;
  return with_unit(bytes, kUnits[unit]) + per;
}

}  // namespace

std::string_view verdict_name(Verdict verdict) {
  return kVerdicts.at(static_cast<size_t>(verdict));
}

std::string format_value(double value, std::string_view unit) {
  if (unit == "s") return format_seconds(value);
  if (unit == "B") return format_amount(value, "");
  if (unit == "B/s") return format_amount(value, "/s");
  if (unit == "share") return with_unit(100 * value, "%");
  return with_unit(value, std::string(unit).c_str());
}

std::string results_to_json(const Results& results) {
  return dump(array_of(results));
}

Result<Results> results_from_json(std::string_view text) {
  Results results;
  if (!read_results(Json::parse(text, nullptr, false), results)) {
    return Status(Code::kDataLoss, "no results of checks");
  }
  return results;
}

std::string to_json(const DoctorReport& report) {
  return dump({{"version", kVersion},
               {"node", report.node},
               {"verdict", verdict_name(verdict_of(report))},
               {"quick", report.is_quick},
               {"seconds", report.seconds},
               {"checks", array_of(report.results)}});
}

Result<DoctorReport> report_from_json(std::string_view text) {
  const Status wrong(Code::kDataLoss, "this is no report of `convoy doctor --save`");
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("version") || !json.contains("checks")) return wrong;
  if (json["version"] != kVersion) {
    return Status(Code::kDataLoss, "a report of another version of Convoy: save it again");
  }
  DoctorReport report;
  const auto quick = json.find("quick"), seconds = json.find("seconds");
  if (!read_text(json, "node", report.node) || report.node.empty() || quick == json.end() ||
      !quick->is_boolean() || seconds == json.end() || !seconds->is_number() ||
      !read_results(json["checks"], report.results)) {
    return wrong;
  }
  report.is_quick = quick->get<bool>();
  report.seconds = seconds->get<double>();
  return report;
}

}  // namespace convoy::resilience
