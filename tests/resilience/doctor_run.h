#pragma once

#include "src/resilience/doctor/report.h"
#include "src/resilience/doctor/runner.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace convoy::resilience {

// What `run` finds in a process of its own, which may change its namespaces and limits.
inline Results in_child(std::function<Results()> run) {
  Runner runner;
  runner.start({.name = "child", .deadline = std::chrono::seconds(60), .run = std::move(run)});
  runner.wait(Phase::kRead);
  return runner.results(0);
}

// The first result of this name; one without a name if there is none.
inline CheckResult result_of(const Results& results, const std::string& name) {
  const auto at = std::find_if(results.begin(), results.end(),
                               [&name](const CheckResult& r) { return r.name == name; });
  return at == results.end() ? CheckResult{} : *at;
}

}  // namespace convoy::resilience
