// Codes, their names, and how errno values map to them.
#include <convoy/base/status.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace convoy {
namespace {

constexpr std::array kFailures = {
    Code::kInvalidArgument, Code::kFailedPrecondition, Code::kNotFound,
    Code::kAlreadyExists,   Code::kDeadlineExceeded,   Code::kAborted,
    Code::kMismatch,        Code::kResourceExhausted,  Code::kDataLoss,
    Code::kUnavailable,     Code::kInternal,
};

}  // namespace

void check_failed(const char* file, int line, const char* condition, std::string_view message) {
  std::fprintf(stderr, "%s:%d: CONVOY_CHECK(%s) failed%s%.*s\n", file, line, condition,
               message.empty() ? "" : ": ", static_cast<int>(message.size()), message.data());
  std::fflush(stderr);
  std::abort();
}

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kOk:
      return "ok";
    case Code::kInvalidArgument:
      return "invalid argument";
    case Code::kFailedPrecondition:
      return "failed precondition";
    case Code::kNotFound:
      return "not found";
    case Code::kAlreadyExists:
      return "already exists";
    case Code::kDeadlineExceeded:
      return "deadline exceeded";
    case Code::kAborted:
      return "aborted";
    case Code::kMismatch:
      return "mismatch";
    case Code::kResourceExhausted:
      return "resource exhausted";
    case Code::kDataLoss:
      return "data loss";
    case Code::kUnavailable:
      return "unavailable";
    case Code::kInternal:
      return "internal error";
  }
  return "unknown";
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  return std::string(code_name(code_)) + ": " + message_;
}

Status Status::with_context(std::string_view context) const {
  if (ok()) return *this;
  return {code_, std::string(context) + ": " + message_};
}

// A context that was added on the way (stage, micro-batch) stands before or after the code.
Status status_of_text(const std::string& text) {
  for (const Code code : kFailures) {
    const std::string prefix = std::string(code_name(code)) + ": ";
    if (text.find(prefix) != std::string::npos) return {code, text};
  }
  return {Code::kInternal, text};
}

Status errno_status(std::string_view what, int error) {
  Code code = Code::kInternal;
  switch (error) {
    case ENOENT:
      code = Code::kNotFound;
      break;
    case EEXIST:
    case EADDRINUSE:
      code = Code::kAlreadyExists;
      break;
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
      code = Code::kResourceExhausted;
      break;
    case EINVAL:
    case EACCES:
    case EPERM:
      code = Code::kInvalidArgument;
      break;
    case ETIMEDOUT:
      code = Code::kDeadlineExceeded;
      break;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EADDRNOTAVAIL:
      code = Code::kUnavailable;
      break;
    case EIO:
      code = Code::kDataLoss;
      break;
    default:
      break;
  }
  std::string text = std::string(what) + ": " + std::strerror(error);
  if (error == EMFILE) text += "; allow more with `ulimit -n`";
  return {code, text};
}

}  // namespace convoy
