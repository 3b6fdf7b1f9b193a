#pragma once

#include <convoy/base/status.h>
#include <convoy/comm/host/collective.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::host {

// What one rank asks for in one collective, without the memory: what ranks compare.
struct OpSignature {
  OpKind kind = OpKind::kBarrier;
  DType dtype = DType::kU8;
  ReduceOp reduce = ReduceOp::kSum;
  int root = 0;
  double premul = 1.0;  // each rank's own, not compared
  std::vector<uint64_t> in;
  std::vector<uint64_t> out;

  bool operator==(const OpSignature&) const = default;
  // "all_reduce(sum, float32, in 1024)".
  std::string to_string() const;
};

bool is_reducing(OpKind kind);

// As `rank` of `size` asks for it; spans that its part of the collective does not use are left out.
OpSignature op_signature(const Collective& op, int rank, int size);

// Whether `op` makes sense for `rank` of `size` by itself: the number of spans, the root, no null
// data, a reduction that the dtype has. kInvalidArgument with the reason.
Status check_collective(const Collective& op, int rank, int size);

// The bytes a rank sends to every other rank at the beginning of an operation. Equal counts are
// stored once. Decoding trusts nothing: any truncation, excess or unknown value is kDataLoss.
std::string encode_signatures(std::span<const Collective> ops, int rank, int size);
Result<std::vector<OpSignature>> decode_signatures(std::string_view bytes, int rank, int size);

// Whether all ranks ask for the same. `by_rank[r]` is what rank r asked for, complete. kMismatch
// naming the requests and their ranks (by `names`, the global ranks).
Status check_agreement(const std::vector<std::vector<OpSignature>>& by_rank,
                       const std::vector<int>& names);

// "0, 1, 5".
std::string join_ranks(const std::vector<int>& ranks);

}  // namespace convoy::host
