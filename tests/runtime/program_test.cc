// How programs end: every kind of failure has its documented exit code, exceptions from torch keep
// the kind that their text names, another torch is refused. Not checked here: a real run with wrong
// options (train_llama_test.py).
#include <convoy/runtime/program.h>

#include <c10/util/Exception.h>
#include <catch2/catch.hpp>

#include <stdexcept>

using namespace convoy;
using namespace convoy::runtime;

TEST_CASE("Exit codes are those of the documentation") {
  CHECK(exit_code_of(ok_status()) == 0);
  CHECK(exit_code_of({Code::kInvalidArgument, ""}) == 64);
  CHECK(exit_code_of({Code::kDataLoss, ""}) == 65);
  CHECK(exit_code_of({Code::kNotFound, ""}) == 66);
  CHECK(exit_code_of({Code::kAborted, ""}) == 69);
  CHECK(exit_code_of({Code::kAlreadyExists, ""}) == 69);
  CHECK(exit_code_of({Code::kInternal, ""}) == 70);
  CHECK(exit_code_of({Code::kResourceExhausted, ""}) == 71);
  CHECK(exit_code_of({Code::kDeadlineExceeded, ""}) == 75);
  CHECK(exit_code_of({Code::kFailedPrecondition, ""}) == 78);
}

TEST_CASE("What a body throws ends the program with the code that its text names") {
  const auto throws = [](const std::string& text) {
    return run_program([&]() -> Status { C10_THROW_ERROR(DistBackendError, text); });
  };
  CHECK(throws("stage 1 of 4, forward: deadline exceeded: rank 3 has not joined") == kExitDeadline);
  CHECK(throws("aborted: rank 2 is gone") == kExitUnavailable);
  CHECK(throws("something else broke") == kExitUnavailable);
  CHECK(run_program([]() -> Status { throw std::runtime_error("no idea"); }) == kExitInternal);
  CHECK(run_program([]() -> Status {
          return {Code::kNotFound, "no such file: x"};
        }) == kExitNoInput);
  CHECK(run_program([] { return ok_status(); }) == 0);
}

TEST_CASE("Another torch than the compiled one is refused, with both versions in the text") {
  const auto version = [](uint64_t major, uint64_t minor, uint64_t patch) {
    return major << 56 | minor << 48 | patch << 40;
  };
  CHECK(check_torch_version(version(2, 15, 0), version(2, 15, 0)).ok());
  CHECK(check_torch_version(version(2, 15, 0), version(2, 15, 1)).ok());
  const Status other = check_torch_version(version(2, 15, 0), version(2, 14, 1));
  CHECK(other.code() == Code::kFailedPrecondition);
  CHECK(other.message().find("2.15.0") != std::string::npos);
  CHECK(other.message().find("2.14.1") != std::string::npos);
}
