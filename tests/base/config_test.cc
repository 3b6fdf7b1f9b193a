// Numbers, lists, misspelt names, durations and sizes: what is accepted, what is refused and how.
#include <convoy/base/config.h>
#include <convoy/base/units.h>

#include <catch2/catch.hpp>

namespace convoy {
namespace {

using Catch::Contains;

TEST_CASE("integers are the whole text and within bounds") {
  REQUIRE(parse_integer("x", "42").value() == 42);
  REQUIRE(parse_integer("x", "-3").value() == -3);
  for (const char* text : {"", "4 ", " 4", "4x", "0x4", "1e3", "99999999999999999999", "+1"}) {
    REQUIRE_FALSE(parse_integer("x", text).ok());
  }
  REQUIRE(parse_integer("PORT", "65535", 1, 65535).ok());
  REQUIRE_THAT(parse_integer("PORT", "65536", 1, 65535).status().message(),
               Contains("PORT is '65536'") && Contains("at least 1, at most 65535"));
}

TEST_CASE("a misspelt name finds its neighbour, a strange one does not") {
  const std::vector<std::string> known{"--mesh", "--output", "--port", "--env"};
  REQUIRE(nearest_name("--mseh", known) == "--mesh");
  REQUIRE(nearest_name("--meh", known) == "--mesh");
  REQUIRE(nearest_name("--outptu", known) == "--output");
  REQUIRE(nearest_name("--something-else", known).empty());
  REQUIRE(nearest_name("x", {}).empty());
}

TEST_CASE("splitting keeps empty parts, but the empty text has none") {
  REQUIRE(split("", ',').empty());
  REQUIRE(split("a", ',') == std::vector<std::string>{"a"});
  REQUIRE(split(",a,,b,", ',') == std::vector<std::string>{"", "a", "", "b", ""});
}

TEST_CASE("durations") {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  REQUIRE(parse_duration("t", "90").value() == seconds(90));
  REQUIRE(parse_duration("t", "1.5m").value() == seconds(90));
  REQUIRE(parse_duration("t", "250ms").value() == milliseconds(250));
  REQUIRE(parse_duration("t", "2 h").value() == seconds(7200));
  for (const char* text : {"", "s", "-1", "5 days", "inf", "nan", "1e99"}) {
    REQUIRE_FALSE(parse_duration("t", text).ok());
  }
  REQUIRE(format_duration(milliseconds(250)) == "250 ms");
  REQUIRE(format_duration(milliseconds(1500)) == "1.5 s");
  REQUIRE(format_duration(seconds(200)) == "3 min 20 s");
  REQUIRE(format_duration(seconds(3600)) == "1 h");
  REQUIRE(format_duration(seconds(7500)) == "2 h 5 min");
}

TEST_CASE("sizes") {
  REQUIRE(format_bytes(1000) == "1000 B");
  REQUIRE(format_bytes(65536) == "64 KiB");
  REQUIRE(format_bytes(1610612736) == "1.5 GiB");
  REQUIRE(parse_bytes("t", "4096").value() == 4096);
  REQUIRE(parse_bytes("t", "512MiB").value() == uint64_t{512} << 20);
  REQUIRE(parse_bytes("t", "1.5 GiB").value() == 1610612736);
  for (const char* text : {"", "GiB", "-1", "2GB", "5 apples", "inf", "nan", "1e99"}) {
    REQUIRE_FALSE(parse_bytes("t", text).ok());
  }
}

}  // namespace
}  // namespace convoy
