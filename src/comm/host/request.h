#pragma once

#include <convoy/comm/host/collective.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>

// What a rank asks for, in one number that must be equal on all ranks and in words.
namespace convoy::host {

bool reduces(OpKind kind);
bool has_root(OpKind kind);

// Whether the collective's own lists and counts fit each other for this rank: the number of
// buffers, and where the op says so, the size of this rank's own part.
bool is_consistent(const Collective& op, int rank, int size);

// Hash of all that must be equal: number of collectives, kinds, dtypes, reductions, roots, and the
// counts that every rank knows. Counts of all_to_all, gather and scatter that only pairs of ranks
// know are not in it. An inconsistent request gets a number of its own.
uint64_t signature_of(std::span<const Collective> ops, int rank, int size);

// "all_reduce(sum, float32, 1024)", "all_gather(float32, in 512, out 512 each)"; several joined by
// "; ". Roots are printed through `rank_name`.
std::string describe(std::span<const Collective> ops, const std::function<int(int)>& rank_name);

}  // namespace convoy::host
