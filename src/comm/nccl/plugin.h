#pragma once

#include <convoy/comm/nccl.h>

// What libconvoy_nccl offers to libconvoy.
namespace convoy::comm {

inline constexpr const char* kNcclLibrary = "libconvoy_nccl.so";
inline constexpr const char* kMakeNcclGroupSymbol = "convoy_make_nccl_group";
inline constexpr const char* kCountGpusSymbol = "convoy_count_gpus";
inline constexpr const char* kNcclGroupSymbol = "convoy_nccl_group";
using CountGpus = int();
using NcclGroup = int(bool begins);  // ncclGroupStart or ncclGroupEnd, and what it returned
using MakeNcclGroup = void(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                           const NcclOptions& options, c10::intrusive_ptr<c10d::Backend>& group);

}  // namespace convoy::comm
