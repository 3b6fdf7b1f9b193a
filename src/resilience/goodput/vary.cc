// The same job when one thing is another one: what the result hangs on.
#include "src/resilience/goodput/goodput.h"

#include <cstdio>
#include <functional>

namespace convoy::resilience::goodput {
namespace {

struct Case {
  std::string what;
  std::function<void(Setup&)> change;
};

std::string text(const char* format, double value) {
  char out[64];
  std::snprintf(out, sizeof out, format, value);
  return out;
}

void all_costs(Setup& setup, double times) {
  for (const Constant& c : kConstants) {
    if (c.is_cost) setup.constants.*c.value *= times;
  }
}

// What is done without a supervisor: every failure ends all processes, people's scripts start them.
void start_anew(Setup& setup) {
  setup.is_replicated = false;
  setup.constants.promote_s = 600;
  setup.constants.respawn_s = 610;
}

std::vector<Case> cases(const Setup& base) {
  std::vector<Case> all{{"as given", [](Setup&) {}}};
  for (const int spares : {0, 4}) {
    all.push_back({spares == 0 ? "no spare machines" : text("%.0f spare machines", spares),
                   [=](Setup& s) { s.spares = spares; }});
  }
  all.push_back({"no replicas (sharded optimizer)", [](Setup& s) { s.is_replicated = false; }});
  all.push_back({"no replicas, a checkpoint every 10 steps", [](Setup& s) {
                   s.is_replicated = false;
                   s.constants.save_every_steps = 10;
                 }});
  all.push_back({"a process starts in 60 s, no spares", [](Setup& s) {
                   s.spares = 0;
                   s.constants.respawn_s = 60;
                 }});
  all.push_back({"groups take 30 s", [](Setup& s) { s.constants.groups_s = 30; }});
  all.push_back({"groups take 120 s", [](Setup& s) { s.constants.groups_s = 120; }});
  for (const double n : {1.0, 10.0}) {
    all.push_back({text("%.0f healthy rank(s) a day taken for hung", n),
                   [=](Setup& s) { s.constants.false_per_day = n; }});
  }
  for (const double times : {3.0, 10.0}) {
    all.push_back({text("failures x %.0f", times), [=](Setup& s) { s.more_failures *= times; }});
  }
  for (const Constant& c : kConstants) {
    if (!c.is_cost || base.constants.*c.value == 0) continue;
    for (const double times : {3.0, 10.0}) {
      all.push_back({c.name + text(" x %.0f", times),
                     [&c, times](Setup& s) { s.constants.*c.value *= times; }});
    }
  }
  for (const double times : {3.0, 10.0}) {
    all.push_back({text("all costs x %.0f", times), [=](Setup& s) { all_costs(s, times); }});
  }
  all.push_back({"for comparison: all processes anew, 10 min", start_anew});
  return all;
}

}  // namespace

Result<std::vector<Row>> vary(const Setup& setup, const Mix& mix, uint64_t seed, int seeds) {
  std::vector<Row> rows;
  for (const Case& one : cases(setup)) {
    Setup other = setup;
    one.change(other);
    CONVOY_ASSIGN_OR_RETURN(const Outcome outcome, simulate(other, mix, seed, seeds));
    rows.push_back({one.what, outcome});
  }
  return rows;
}

}  // namespace convoy::resilience::goodput
