#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// What the torch-free host engine is asked to do: plain structs, no tensors.
namespace convoy::host {

enum class DType : uint8_t {
  kU8,
  kI8,
  kI16,
  kI32,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kBool,
  kC64,
  kC128
};
enum class ReduceOp : uint8_t { kSum, kAvg, kProduct, kMin, kMax, kBand, kBor, kBxor, kPremulSum };
enum class OpKind : uint8_t {
  kBarrier,
  kBroadcast,  // out[0]: on the root the source, elsewhere the destination
  kAllReduce,  // in[0] -> out[0], same count everywhere; in[0].data == out[0].data is allowed
  kReduce,     // in[0] -> out[0] on the root; out is ignored elsewhere
  kAllGather,  // in[0] -> out[r] of every rank, r = my rank; counts may differ from rank to rank
  kReduceScatter,  // in[r] -> reduced into out[0] of rank r; counts may differ from rank to rank
  kAllToAll,       // in[r] -> out[my rank] of rank r; counts may differ, 0 too
  kGather,         // in[0] -> out[r] of the root
  kScatter,        // in[r] of the root -> out[0] of rank r
};

size_t dtype_size(DType dtype);             // bytes of one element
std::string_view dtype_name(DType dtype);   // "float32", torch's names
std::string_view op_name(OpKind kind);      // "all_reduce", …
std::string_view reduce_name(ReduceOp op);  // "sum", …

// `count` elements at `data`, contiguous. Null data is allowed when count is 0.
struct Span {
  void* data = nullptr;
  size_t count = 0;
};

// One collective as one rank sees it. Memory stays the caller's and must live until run() returns.
// Sums of f16 and bf16 accumulate in f32 and are rounded once. Reductions add in rank order 0..n-1
// on every path, so results are bit-identical on all ranks, in every run, and for every tensor
// placement.
struct Collective {
  OpKind kind = OpKind::kBarrier;
  DType dtype = DType::kU8;
  ReduceOp reduce = ReduceOp::kSum;
  double premul = 1.0;  // kPremulSum: every input is multiplied by it (the caller's own factor)
  int root = 0;
  std::vector<Span> in;
  std::vector<Span> out;
};

}  // namespace convoy::host
