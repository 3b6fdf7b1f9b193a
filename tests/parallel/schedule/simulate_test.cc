// Timing and pictures: the simulated bubble against the closed formulas of the papers, that a
// schedule's communication costs it what it should, and golden pictures in text. The SVG is checked
// for being complete and well formed in its own terms (a block for every action), not for beauty.
#include <convoy/parallel/schedule/picture.h>
#include <convoy/parallel/schedule/simulate.h>

#include <catch2/catch.hpp>

#include <string>

namespace convoy::schedule {
namespace {

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST_CASE("the bubble is the papers' formula") {
  for (int p = 1; p <= 8; ++p) {
    for (int rounds = 1; rounds <= 3; ++rounds) {
      const int m = p * rounds;
      const double plain = (p - 1.0) / (m + p - 1.0);
      CAPTURE(p, m);
      REQUIRE(simulate(*gpipe(p, m))->bubble_fraction == Approx(plain).margin(1e-12));
      REQUIRE(simulate(*one_f_one_b(p, m))->bubble_fraction == Approx(plain).margin(1e-12));
      for (int v = 2; v <= 4; ++v) {
        // arXiv 2104.04473, section 2.2.2: the idle time shrinks by the number of chunks.
        const double interleaved = (p - 1.0) / v / (m + (p - 1.0) / v);
        REQUIRE(simulate(*interleaved_1f1b(p, m, v))->bubble_fraction ==
                Approx(interleaved).margin(1e-12));
      }
    }
  }
}

TEST_CASE("messages and slow stages lengthen the step as they must") {
  // Two ranks, one micro-batch: forward, message, forward, backward, message, backward.
  REQUIRE(simulate(*one_f_one_b(2, 1), {1, 2, 0.5, {}})->makespan == Approx(7));
  REQUIRE(simulate(*one_f_one_b(2, 1), {1, 2, 0, {1, 3}})->makespan == Approx(12));
  // One rank never sends anything, even with several chunks.
  REQUIRE(simulate(*interleaved_1f1b(1, 4, 3), {1, 2, 9, {}})->makespan == Approx(12));
  REQUIRE(simulate(*gpipe(2, 2), {0, 2, 0, {}}).status().code() == Code::kInvalidArgument);
  REQUIRE(simulate(*gpipe(2, 2), {1, 2, 0, {1}}).status().message() ==
          "stage_scale has 1 entries, but schedule gpipe has 2 stages.");
  Schedule broken = *gpipe(2, 2);
  broken.steps[1].pop_back();
  REQUIRE_FALSE(simulate(broken).ok());
  REQUIRE_FALSE(to_text(broken).ok());
  REQUIRE_FALSE(to_svg(broken).ok());
}

TEST_CASE("the text picture") {
  REQUIRE("\n" + *to_text(*one_f_one_b(3, 4)) == R"(
1f1b: 3 rank(s), 4 micro-batch(es), 1 chunk(s) a rank; bubble 33.3 %
rank 0 | F0 F1 F2 .  .  .  .  B0 == F3 B1 == .  B2 == .  B3 == | peak 3 of 3
rank 1 | .  F0 F1 .  .  B0 == F2 B1 == F3 B2 == .  B3 == .  .  | peak 2 of 2
rank 2 | .  .  F0 B0 == F1 B1 == F2 B2 == F3 B3 == .  .  .  .  | peak 1 of 1
)");
}

TEST_CASE("the SVG draws every action once") {
  const Schedule schedule = *interleaved_1f1b(4, 8, 2);
  const std::string svg = *to_svg(schedule);
  REQUIRE(svg.rfind("<svg xmlns=", 0) == 0);
  REQUIRE(count(svg, "</title></rect>") == size_t{4} * 8 * 2 * 2);
  REQUIRE(count(svg, "backward of micro-batch 7, chunk 1:") == 4);
  REQUIRE(svg.find("bubble 15.8 %") != std::string::npos);
  REQUIRE(svg.find("prefers-color-scheme: dark") != std::string::npos);
  REQUIRE(count(svg, "<text") == count(svg, "</text>"));
}

}  // namespace
}  // namespace convoy::schedule
