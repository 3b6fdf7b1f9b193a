// How a program ends: which failure becomes which exit code, who says it, and whether the loaded
// torch is the one that Convoy was compiled with.
#include <convoy/base/log.h>
#include <convoy/runtime/program.h>

#include <c10/util/Exception.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>

namespace convoy::runtime {
namespace {

// How long ranks other than 0 leave it to rank 0 to explain what all of them found out.
constexpr std::chrono::seconds kSilence(5);
// How long a rank that fails because another one did leaves it to that one to end first, so that
// the launcher reports the cause and its exit code.
constexpr std::chrono::milliseconds kPrecedence(500);

std::string version_text(uint64_t version) {
  return std::to_string(version >> 56) + "." + std::to_string((version >> 48) & 0xff) + "." +
         std::to_string((version >> 40) & 0xff);
}

// Failures that depend on what was asked for and not on which rank asks.
bool common_to_all_ranks(const Status& status) {
  const Code code = status.code();
  return code == Code::kInvalidArgument || code == Code::kNotFound || code == Code::kDataLoss ||
         code == Code::kFailedPrecondition;
}

bool is_rank_zero() {
  // Before the environment is read there is nothing else to go by.
  const char* rank = std::getenv("RANK");
  return rank == nullptr || std::string(rank) == "0";
}

}  // namespace

int exit_code_of(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return kExitOk;
    case Code::kInvalidArgument:
    case Code::kMismatch:
      return kExitUsage;
    case Code::kDataLoss:
      return kExitBadData;
    case Code::kNotFound:
      return kExitNoInput;
    case Code::kAlreadyExists:
    case Code::kAborted:
    case Code::kUnavailable:
      return kExitUnavailable;
    case Code::kResourceExhausted:
      return kExitResources;
    case Code::kDeadlineExceeded:
      return kExitDeadline;
    case Code::kFailedPrecondition:
      return kExitSetup;
    case Code::kInternal:
      break;
  }
  return kExitInternal;
}

Status attempt(const std::function<Status()>& body) {
  std::string text;
  bool is_group = false;  // of a group that has failed, which is mostly another rank's doing
  try {
    return body();
  } catch (const c10::DistError& error) {
    text = error.what_without_backtrace();
    is_group = true;
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    text = error.what();
  }
  // Of an aborted communicator torch speaks in several kinds of error.
  is_group = is_group || text.find("NCCL") != std::string::npos;
  const Status status = status_of_text(text);
  if (!is_group || status.code() != Code::kInternal) return status;
  return {Code::kUnavailable, status.message()};
}

int run_program(const std::function<Status()>& body) {
  const Status status = attempt(body);
  if (status.ok()) return kExitOk;
  if (common_to_all_ranks(status) && !is_rank_zero()) std::this_thread::sleep_for(kSilence);
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", status.message().c_str());
  if (status.code() == Code::kAborted) std::this_thread::sleep_for(kPrecedence);
  return exit_code_of(status);
}

Status check_torch_version(uint64_t compiled, uint64_t loaded) {
  if (compiled >> 48 == loaded >> 48) return ok_status();
  return {
      Code::kFailedPrecondition,
      "Convoy was compiled with libtorch " + version_text(compiled) + ", but libtorch " +
          version_text(loaded) +
          " was loaded, whose c10d classes differ. Start the program with the Python environment "
          "that it was built with (check LD_LIBRARY_PATH and LD_PRELOAD), or build Convoy again "
          "with that torch."};
}

}  // namespace convoy::runtime
