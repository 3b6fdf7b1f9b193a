// The ranks' output: a stream cut at random places gives the same lines, progress is told from
// lines, and a log keeps its last lines. The terminal is checked with a real one in
// tests/cli/run_test.py.
#include "src/launch/output.h"

#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <fstream>
#include <random>
#include <utility>
#include <vector>

namespace convoy::launch {
namespace {

using Piece = std::pair<std::string, bool>;  // text, is it progress

std::vector<Piece> split_at(const std::string& text, const std::vector<size_t>& cuts) {
  LineSplitter splitter;
  std::vector<Piece> pieces;
  const auto take = [&pieces](std::string_view line, bool is_progress) {
    pieces.emplace_back(std::string(line), is_progress);
  };
  size_t from = 0;
  for (const size_t cut : cuts) {
    splitter.feed(std::string_view(text).substr(from, cut - from), take);
    from = cut;
  }
  splitter.feed(std::string_view(text).substr(from), take);
  splitter.finish(take);
  return pieces;
}

TEST_CASE("newline ends a line, carriage return a progress line") {
  const std::vector<Piece> expected{{"a", false}, {"1/3", true}, {"2/3", true},
                                    {"b", false}, {"", false},   {"c", false}};
  REQUIRE(split_at("a\n1/3\r2/3\rb\n\nc", {}) == expected);
}

TEST_CASE("text behind a carriage return and a newline is a line, for Windows' sake") {
  const std::vector<Piece> expected{{"a", true}, {"a", false}, {"b", false}};
  REQUIRE(split_at("a\r\nb\n", {}) == expected);
  REQUIRE(split_at("a\r\nb\n", {2}) == expected);
}

TEST_CASE("progress at the end is not kept as a line") {
  REQUIRE(split_at("a\r", {}) == std::vector<Piece>{{"a", true}});
}

TEST_CASE("where a stream is cut does not matter") {
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 200; ++i) text += "ab\n\r\n x"[random() % 7];
    std::vector<size_t> cuts;
    for (size_t i = 1; i < text.size(); ++i) {
      if (random() % 9 == 0) cuts.push_back(i);
    }
    REQUIRE(split_at(text, cuts) == split_at(text, {}));
  }
}

TEST_CASE("an endless line is cut, so that memory stays bounded") {
  const std::string text(3U << 20U, 'x');
  const auto pieces = split_at(text, {});
  REQUIRE(pieces.size() == 3);
  size_t total = 0;
  for (const Piece& piece : pieces) total += piece.first.size();
  REQUIRE(total == text.size());
}

TEST_CASE("a log keeps all lines on disk and the last ten at hand; a second run appends") {
  const TempFolder folder;
  const std::string path = folder / "rank_0.log";
  std::string expected;
  for (int run = 0; run < 2; ++run) {
    auto log = RankLog::open(path);
    REQUIRE(log.ok());
    for (int i = 0; i < 25; ++i) {
      log->add("line " + std::to_string(i));
      expected += "line " + std::to_string(i) + "\n";
    }
    log->flush();
    REQUIRE(log->error().ok());
    REQUIRE(log->tail().size() == 10);
    REQUIRE(log->tail().front() == "line 15");
    REQUIRE(log->tail().back() == "line 24");
  }
  std::ifstream file(path);
  REQUIRE(std::string(std::istreambuf_iterator<char>(file), {}) == expected);
}

TEST_CASE("a full disk is noticed and does not stop the job") {
  auto log = RankLog::open("/dev/full");
  REQUIRE(log.ok());
  log->add("text");
  log->flush();
  REQUIRE(log->error().code() == Code::kResourceExhausted);
  log->add("more");
  log->flush();
  REQUIRE(log->tail().size() == 2);
}

}  // namespace
}  // namespace convoy::launch
