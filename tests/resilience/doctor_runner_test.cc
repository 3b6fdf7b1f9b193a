// The runner's promise: whatever a check does, the doctor goes on, and says which check it was.
// Checks that hang, crash, leave, throw and talk nonsense are caused. Not checked: one that can't
// be killed, which needs a broken driver.
#include "tests/resilience/doctor_run.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <cstdlib>
#include <new>
#include <sys/wait.h>
#include <unistd.h>

using namespace convoy;
using namespace convoy::resilience;

namespace {

Check check_of(std::string name, std::function<Results()> run) {
  return {.name = std::move(name),
          .deadline = std::chrono::seconds(60),
          .advice = "look at it",
          .run = std::move(run)};
}

CheckResult only(const Results& results) {
  REQUIRE(results.size() == 1);
  return results.front();
}

}  // namespace

TEST_CASE("a check that hangs is given up, named, and gone") {
  Runner runner;
  Check hung = check_of("disk", []() -> Results {
    while (true) ::pause();
  });
  hung.subject = "/data";
  hung.deadline = std::chrono::milliseconds(50);
  runner.start(hung);
  runner.start(check_of("other", [] { return Results{found("other", "works")}; }));
  runner.wait(Phase::kRead);
  const CheckResult result = only(runner.results(0));
  CHECK(result.name == "disk");
  CHECK(result.subject == "/data");
  CHECK(result.verdict == Verdict::kFail);
  CHECK(result.found == "timed out");
  CHECK(result.advice == "look at it");
  CHECK(only(runner.results(1)).found == "works");
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // no child is left
}

TEST_CASE("a check that crashes, leaves or throws is a failed result") {
  const auto raised = [] {
    ::signal(SIGABRT, SIG_DFL);
    ::raise(SIGKILL);
    return Results{};
  };
  CHECK(only(in_child(raised)).found.find("Killed") != std::string::npos);
  CHECK(only(in_child([]() -> Results { ::_exit(3); })).found ==
        "the check ended with exit code 3");
  const CheckResult thrown = only(in_child([]() -> Results { throw std::bad_alloc(); }));
  CHECK(thrown.verdict == Verdict::kFail);
  CHECK(thrown.found.find("bad_alloc") != std::string::npos);
}

TEST_CASE("a child holds no descriptor of ours") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const int fd = ends[1];
  const Results results = in_child([fd] {
    const char byte = 0;
    return Results{found("child", ::write(fd, &byte, 1) < 0 ? "closed" : "open")};
  });
  CHECK(only(results).found == "closed");
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("background checks run beside the others and are awaited last") {
  Runner runner;
  Check background = check_of("background", [] { return Results{found("background", "done")}; });
  background.phase = Phase::kBackground;
  runner.start(background);
  runner.start(check_of("read", [] { return Results{found("read", "done")}; }));
  runner.wait(Phase::kRead);
  CHECK(only(runner.results(1)).found == "done");
  runner.wait(Phase::kBackground);
  CHECK(only(runner.results(0)).found == "done");
}

TEST_CASE("results survive the way through JSON, nonsense is refused") {
  CheckResult result = measured("disk.fsync", 0.00125, "s", Better::kLower);
  result.subject = "/da\"ta/\xff";  // no UTF-8
  result = judged(std::move(result), false, Verdict::kWarn, "less", "do something");
  const Result<Results> back = results_from_json(results_to_json({result}));
  REQUIRE(back.ok());
  CHECK(only(*back).value == 0.00125);
  CHECK(only(*back).better == Better::kLower);
  CHECK(only(*back).advice == "do something");
  for (const char* text :
       {"", "{}", "[1]", "[{}]", R"([{"name":"a","verdict":"good"}])",
        R"([{"name":"a","verdict":"ok","unit":"s"}])", R"([{"name":1,"verdict":"ok"}])",
        R"([{"name":"a","verdict":"ok","unit":"s","value":1e999}])"}) {
    CHECK_FALSE(results_from_json(text).ok());
  }
}
