#pragma once

#include <convoy/base/status.h>

// Libraries that programs open when they first need them: what those need costs time at a start,
// or is not installed everywhere. All lie beside this one. Thread-safe; none is ever closed.
namespace convoy {

// A function of libconvoy_cluster, which holds all that talks gRPC. kFailedPrecondition, beginning
// with `what_for`: it is not there, or of another version.
Result<void*> find_in_cluster_library(const char* function, const char* what_for);

struct ArrowPlugin {
  const char* what_for;    // begins the texts of failures
  const char* library;     // ours, which needs Arrow
  const char* function;    // in it
  const char* arrow_part;  // what it needs beside libarrow: "libarrow_s3", "libparquet"
};
// The function, once Arrow's libraries have been loaded from the first folder that has them.
// kInvalidArgument: they are not there, or Convoy was built without them.
Result<void*> find_in_arrow_plugin(const ArrowPlugin& plugin);

}  // namespace convoy
