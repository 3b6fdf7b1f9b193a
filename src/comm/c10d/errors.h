#pragma once

#include <convoy/base/status.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <exception>

// The one place where Convoy's Status and torch's exceptions turn into each other.
namespace convoy::comm {

// Throws a failed `status` the way callers of c10d expect: c10::ValueError for kInvalidArgument,
// else c10::DistBackendError. The text is Status::to_string().
[[noreturn]] void throw_status(const Status& status);
void throw_if_failed(const Status& status);
std::exception_ptr to_exception(const Status& status);

// The status that describes the exception being handled; call it inside a catch block.
Status current_exception_status();

// What c10d's watchers want to know of it.
c10d::ErrorType error_type(const Status& status);

}  // namespace convoy::comm
