// The names that NCCL looks for. In libconvoy_core: a program that links it is its own plugin
// (NCCL_PROFILER_PLUGIN=STATIC_PLUGIN). In libnccl-profiler-convoy.so: for all others.
#include "trace/nccl_profiler/plugin.h"

using namespace convoy::trace::nccl;

extern "C" {

// Written out, not copied, and not const: each library's own is complete when it is loaded,
// whichever of the two a name leads to.
__attribute__((visibility("default")))
Plugin ncclProfiler_v5 = {"convoy", init_v5, start, stop, state, finalize};
__attribute__((visibility("default")))
Plugin ncclProfiler_v6 = {"convoy", init_v6, start, stop, state, finalize};

}  // extern "C"
