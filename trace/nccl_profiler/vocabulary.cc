#include "trace/nccl_profiler/vocabulary.h"

#include <convoy/trace/event.h>
#include <convoy/trace/nccl.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <cstring>

namespace convoy::trace::nccl {
namespace {

struct FunctionName {
  const char *theirs, *ours;
};
constexpr std::array<FunctionName, kFunctions> kFunctionNames = {{
    {"AllGather", "all_gather"},
    {"AllReduce", "all_reduce"},
    {"AlltoAll", "all_to_all"},
    {"Broadcast", "broadcast"},
    {"Gather", "gather"},
    {"Reduce", "reduce"},
    {"ReduceScatter", "reduce_scatter"},
    {"Scatter", "scatter"},
    {"Send", "send"},
    {"Recv", "recv"},
    {"", "nccl operation"},
}};

struct Dtype {
  const char *theirs, *ours;
  size_t bytes;
};
// NCCL has no name for ncclUint8, whose size the last one has.
constexpr std::array<Dtype, kDtypes> kDtypeNames = {{
    {"ncclFloat32", "float32", 4},
    {"ncclBfloat16", "bfloat16", 2},
    {"ncclFloat16", "float16", 2},
    {"ncclInt8", "int8", 1},
    {"ncclInt32", "int32", 4},
    {"ncclUint32", "uint32", 4},
    {"ncclInt64", "int64", 8},
    {"ncclUint64", "uint64", 8},
    {"ncclFloat64", "float64", 8},
    {"ncclFloat8e4m3", "float8_e4m3fn", 1},
    {"ncclFloat8e5m2", "float8_e5m2", 1},
    {"", "", 1},
}};

template <class Table>
size_t index_of(const Table& table, const char* text) {
  if (text == nullptr) return table.size() - 1;
  for (size_t i = 0; i + 1 < table.size(); ++i) {
    if (std::strcmp(table[i].theirs, text) == 0) return i;
  }
  return table.size() - 1;
}

}  // namespace

Function function_of(const char* text) {
  return static_cast<Function>(index_of(kFunctionNames, text));
}

size_t dtype_of(const char* text) {
  return index_of(kDtypeNames, text);
}

const char* name_of(Function function) {
  return kFunctionNames[static_cast<size_t>(function)].ours;
}

const char* dtype_name(size_t dtype) {
  return kDtypeNames[dtype].ours;
}

size_t dtype_bytes(size_t dtype) {
  return kDtypeNames[dtype].bytes;
}

void Names::intern_all() {
  for (size_t f = 0; f < kFunctions; ++f) {
    for (size_t d = 0; d < kDtypes; ++d) {
      operations[f][d] =
          intern(operation_text({kFunctionNames[f].ours, kDtypeNames[d].ours, "", false}));
    }
  }
  launch = intern(names::kLaunch);
  send_step = intern(kSendStep);
  receive_step = intern(kReceiveStep);
}

}  // namespace convoy::trace::nccl
