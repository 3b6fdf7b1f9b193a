// What a run tells people: the progress line, the metrics file, the loss curve. Texts are compared
// whole; the picture is only checked for being well-formed and complete (its looks are for eyes).
#include "tests/temp_folder.h"
#include <convoy/runtime/loss_curve.h>
#include <convoy/runtime/metrics.h>
#include <convoy/runtime/progress.h>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdlib>
#include <fstream>

namespace convoy::runtime {
namespace {

TEST_CASE("the progress line tells step, loss, rate, share and time left") {
  const StepReport report{120, 2.41361, 9812.4, 0.64};
  REQUIRE(progress_line(report, 800, std::chrono::seconds(83), false) ==
          "step 120/800  15 %  loss 2.4136  9812 tokens/s (64 % of one process)  left 1:23");
  REQUIRE(clock_text(std::chrono::seconds(7389)) == "2:03:09");
}

TEST_CASE("a log gets a line every few seconds and the last step, with the time left") {
  ManualClock clock;
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    Progress progress(4, false, out, clock);
    for (int64_t step = 1; step <= 4; ++step) {
      clock.advance(std::chrono::seconds(2));
      progress.update({step, 1.0, 10.0, {}});
    }
  }
  std::fclose(out);
  REQUIRE(std::string(text) ==
          "step 1/4  25 %  loss 1.0000  10 tokens/s  left 0:06\n"
          "step 4/4  100 %  loss 1.0000  10 tokens/s  left 0:00\n");
  std::free(text);
}

TEST_CASE("metrics are JSON lines, whole numbers stay whole, and what is not finite is null") {
  const TempFolder folder;
  const std::string path = folder / "metrics.jsonl";
  {
    auto writer = MetricsWriter::open(path);
    REQUIRE(writer.ok());
    REQUIRE(writer->write({{"step", 3}, {"loss", 2.5}, {"grad_norm", NAN}}).ok());
  }
  std::string line;
  std::getline(std::ifstream(path) >> std::ws, line);
  REQUIRE(line == R"({"step":3,"loss":2.5,"grad_norm":null})");
  REQUIRE(MetricsWriter::open("/nowhere/metrics.jsonl").status().code() == Code::kNotFound);
}

TEST_CASE("the loss curve leaves out what is not finite and escapes its texts") {
  Curve training{"training", {}};
  for (int64_t step = 1; step <= 1000; ++step) {
    training.points.emplace_back(step, 5.0 / std::sqrt(static_cast<double>(step)));
  }
  training.points.emplace_back(1001, NAN);
  const std::string svg = loss_curve_svg("a < b", {training, {"validation", {{500, 1.0}}}});
  REQUIRE(svg.find("a &lt; b") != std::string::npos);
  REQUIRE(svg.find("nan") == std::string::npos);
  REQUIRE(svg.find("validation (last 1.000)") != std::string::npos);
  REQUIRE(svg.substr(svg.size() - 7) == "</svg>\n");
  REQUIRE_FALSE(loss_curve_svg("empty", {}).empty());
}

}  // namespace
}  // namespace convoy::runtime
