// What the doctor concludes from a driver's answers: a library that stands in for NVML tells of
// three GPUs (fake_nvml.cc). Not checked: a real driver; no GPU has ever met this.
#include "tests/resilience/doctor_run.h"

#include <catch2/catch.hpp>

using namespace convoy::resilience;

TEST_CASE("bad rows, heat and a lost device are told of the GPU that has them") {
  const Results results = in_child([] { return check_gpu(); });
  CHECK(result_of(results, "gpu.driver").found == "3 GPUs");
  int failed = 0;
  for (const CheckResult& result : results) {
    INFO(result.name << " " << result.subject << ": " << result.found);
    if (result.subject == "GPU 0") CHECK(result.verdict == Verdict::kOk);
    if (result.name == "gpu.memory_errors" && result.subject == "GPU 1") {
      CHECK(result.verdict == Verdict::kFail);
      CHECK(result.found == "2 uncorrected since the start, a row waits to be remapped");
      ++failed;
    }
    if (result.name == "gpu.throttling" && result.subject == "GPU 1") {
      CHECK(result.verdict == Verdict::kWarn);
      ++failed;
    }
    if (result.name == "gpu.device") {
      CHECK(result.subject == "GPU 2");
      CHECK(result.verdict == Verdict::kFail);
      ++failed;
    }
  }
  CHECK(failed == 3);
}
