#pragma once

#include <convoy/base/check.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace convoy {

// Why an operation did not succeed. Operating failures only: a broken invariant is a CONVOY_CHECK.
enum class Code {
  kOk = 0,
  kInvalidArgument,     // what the caller gave can't work; the text says how to mend it
  kFailedPrecondition,  // right call, wrong state (e.g. a group that was aborted)
  kNotFound,
  kAlreadyExists,      // e.g. a port in use
  kDeadlineExceeded,   // the text names who is missing
  kAborted,            // somebody called abort(), or a peer died
  kMismatch,           // ranks disagree (op, size, dtype, root, version)
  kResourceExhausted,  // memory, descriptors, /dev/shm
  kDataLoss,           // truncated or corrupt bytes
  kUnavailable,        // the other side can't be reached (yet)
  kInternal,
};

std::string_view code_name(Code code);

// The outcome of an operation that can fail: a code and, if it failed, one paragraph that names
// what, where (rank, group, step or path) and what to do. A value type; safe to copy across
// threads.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "deadline exceeded: rank 3 has not joined ..." or "ok".
  std::string to_string() const;
  // The same failure with `context` and ": " before its text; an ok status stays ok.
  Status with_context(std::string_view context) const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status ok_status() {
  return {};
}
// The failure described by errno value `error`: "<what>: <strerror>", with the matching code.
Status errno_status(std::string_view what, int error);
// The Status of a text that began as Status::to_string() (c10d's exceptions carry such texts, with
// more before or behind), else of kind kInternal.
Status status_of_text(const std::string& text);

// A T, or the Status that says why there is none. Reading the value of a failed Result is a broken
// invariant and aborts with the status's text.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    CONVOY_CHECK(!std::get<Status>(state_).ok(), "a Result without a value needs a failed status");
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  T& value() & {
    CONVOY_CHECK(ok(), status().to_string());
    return std::get<T>(state_);
  }
  const T& value() const& {
    CONVOY_CHECK(ok(), status().to_string());
    return std::get<T>(state_);
  }
  T&& value() && {
    CONVOY_CHECK(ok(), status().to_string());
    return std::get<T>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<Status, T> state_;
};

}  // namespace convoy

#define CONVOY_CONCAT_INNER(a, b) a##b
#define CONVOY_CONCAT(a, b) CONVOY_CONCAT_INNER(a, b)

// Returns the status of `expr` from the enclosing function if it failed.
#define CONVOY_RETURN_IF_ERROR(expr)                                                        \
  do {                                                                                      \
    if (::convoy::Status convoy_status = (expr); !convoy_status.ok()) return convoy_status; \
  } while (false)

// `CONVOY_ASSIGN_OR_RETURN(auto x, f());` binds the value of a Result or returns its status.
#define CONVOY_ASSIGN_OR_RETURN(lhs, expr) \
  CONVOY_ASSIGN_OR_RETURN_INNER(CONVOY_CONCAT(convoy_result_, __LINE__), lhs, expr)
#define CONVOY_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return tmp.status();                 \
  lhs = std::move(tmp).value()
