#pragma once

#include <convoy/base/status.h>

#include <stdexcept>
#include <utility>

// How a failed Status becomes one of convoy.errors' exceptions: throw a StatusError from a bound
// function (with or without the interpreter lock).
namespace convoy::python {

class StatusError : public std::runtime_error {
 public:
  explicit StatusError(Status status)
      : std::runtime_error(status.message()), status_(std::move(status)) {}
  const Status& status() const { return status_; }

 private:
  Status status_;
};

inline void check_ok(const Status& status) {
  if (!status.ok()) throw StatusError(status);
}
template <class T>
T value_of(Result<T> result) {
  if (!result.ok()) throw StatusError(result.status());
  return std::move(result).value();
}

}  // namespace convoy::python
