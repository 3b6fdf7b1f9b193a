// How failures cross the line between Convoy (Status) and c10d (exceptions). Decides which
// exception type carries which code; nothing else in comm throws or catches by type.
#include "src/comm/c10d/errors.h"

#include <c10/util/Exception.h>

namespace convoy::comm {

void throw_status(const Status& status) {
  CONVOY_CHECK(!status.ok(), "throw_status needs a failure");
  if (status.code() == Code::kInvalidArgument) C10_THROW_ERROR(ValueError, status.to_string());
  C10_THROW_ERROR(DistBackendError, status.to_string());
}

void throw_if_failed(const Status& status) {
  if (!status.ok()) throw_status(status);
}

std::exception_ptr to_exception(const Status& status) {
  try {
    throw_status(status);
  } catch (...) {
    return std::current_exception();
  }
}

Status current_exception_status() {
  try {
    throw;
  } catch (const c10::DistStoreError& e) {
    // What a c10d store throws when a wait on a key ran out of time.
    return {Code::kDeadlineExceeded, e.what_without_backtrace()};
  } catch (const c10::DistNetworkError& e) {
    return {Code::kUnavailable, e.what_without_backtrace()};
  } catch (const c10::ValueError& e) {
    return {Code::kInvalidArgument, e.what_without_backtrace()};
  } catch (const c10::Error& e) {
    return {Code::kInternal, e.what_without_backtrace()};
  } catch (const std::exception& e) {
    return {Code::kInternal, e.what()};
  }
}

c10d::ErrorType error_type(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return c10d::ErrorType::SUCCESS;
    case Code::kDeadlineExceeded:
      return c10d::ErrorType::TIMEOUT;
    case Code::kAborted:
    case Code::kUnavailable:
      return c10d::ErrorType::REMOTE_ERROR;
    default:
      return c10d::ErrorType::COMM_ERROR;
  }
}

}  // namespace convoy::comm
