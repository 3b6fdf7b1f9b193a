#pragma once

#include <convoy/base/status.h>

namespace convoy {

// A function of libconvoy_cluster, which holds all that talks gRPC, and which the first call opens:
// it lies beside this library. kFailedPrecondition, beginning with `what_for`: it is not there, or
// of another version. Thread-safe.
Result<void*> find_in_cluster_library(const char* function, const char* what_for);

}  // namespace convoy
