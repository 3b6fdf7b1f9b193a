// An incident as people read it.
#include "src/resilience/incident/incident.h"

#include <array>
#include <cstdio>
#include <ctime>

namespace convoy::resilience {
namespace {

std::string seconds(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f s", value < 10 ? 2 : 1, value);
  return text.data();
}

std::string time_of_day(double unix_time) {
  const auto whole = static_cast<std::time_t>(unix_time);
  std::tm local{};
  ::localtime_r(&whole, &local);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%F %T", &local);
  return text.data();
}

std::string count(int64_t number, const char* one) {
  return std::to_string(number) + " " + one + (number == 1 ? "" : "s");
}

}  // namespace

std::string headline(const IncidentRecord& r) {
  std::string text = r.what;
  if (!r.survived) return text + "; not survived: " + r.reason;
  text += "; back in " + seconds(r.first_step) + ", " + count(r.steps_lost(), "step") + " lost";
  if (r.faults > 1) text += ", " + count(r.faults, "fault") + " in all";
  return text;
}

std::string story(const IncidentRecord& r) {
  std::string text =
      "incident " + std::to_string(r.id) + ", " + time_of_day(r.unix_time) + ": " + r.what + "\n";
  for (const Event& e : r.events) {
    std::array<char, 32> at{};
    std::snprintf(at.data(), at.size(), "  %8.3f s  ", e.at);
    text += at.data() + e.text + "\n";
  }
  if (!r.survived) return text + "  the job ended: " + r.reason + "\n";
  text += "  cost: " + seconds(r.first_step) + " from the fault to the next step of all ranks, " +
          count(r.steps_lost(), "step") + " lost; " + std::to_string(r.processes_kept) +
          " processes stayed alive, " + std::to_string(r.processes_started) + " started, " +
          count(r.spares_used, "spare") + " used\n";
  return text;
}

}  // namespace convoy::resilience
