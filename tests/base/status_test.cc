// Status, Result and deadlines: what callers rely on. Does not check the log's format.
#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <catch2/catch.hpp>

#include <cerrno>

namespace convoy {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return Status(Code::kInvalidArgument, "odd");
  return number / 2;
}

Status quarter(int number, int* out) {
  CONVOY_ASSIGN_OR_RETURN(const int once, half(number));
  CONVOY_ASSIGN_OR_RETURN(*out, half(once));
  return ok_status();
}

TEST_CASE("a result carries a value or the status that says why not") {
  int out = 0;
  REQUIRE(quarter(8, &out).ok());
  REQUIRE(out == 2);
  const Status failed = quarter(6, &out);
  REQUIRE(failed.code() == Code::kInvalidArgument);
  REQUIRE(failed.with_context("rank 3").to_string() == "invalid argument: rank 3: odd");
}

TEST_CASE("errno values map to codes that callers can act on") {
  REQUIRE(errno_status("bind", EADDRINUSE).code() == Code::kAlreadyExists);
  REQUIRE(errno_status("write", ENOSPC).code() == Code::kResourceExhausted);
}

TEST_CASE("a deadline passes exactly when its clock says so") {
  ManualClock clock;
  const Deadline deadline = Deadline::after(Nanos(10), clock);
  REQUIRE_FALSE(deadline.passed(clock));
  clock.advance(Nanos(9));
  REQUIRE(deadline.left(clock) == Nanos(1));
  clock.advance(Nanos(1));
  REQUIRE(deadline.passed(clock));
  REQUIRE_FALSE(Deadline::never().passed(clock));
}

}  // namespace
}  // namespace convoy
