// Which parts of a request must agree, and how a request reads in an error message.
#include "src/comm/host/request.h"

#include <algorithm>

namespace convoy::host {
namespace {

constexpr size_t kOpsDescribed = 4;
constexpr size_t kCountsDescribed = 16;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 29);
}

uint64_t mix_counts(uint64_t hash, const std::vector<Span>& spans) {
  for (const Span& span : spans) hash = mix(hash, span.count);
  return hash;
}

std::string counts_text(const std::vector<Span>& spans) {
  if (spans.size() == 1) return std::to_string(spans[0].count);
  const bool equal = std::all_of(spans.begin(), spans.end(),
                                 [&](const Span& s) { return s.count == spans[0].count; });
  if (equal && !spans.empty()) return std::to_string(spans[0].count) + " each";
  std::string text = "[";
  for (size_t i = 0; i < std::min(spans.size(), kCountsDescribed); ++i) {
    text += (i == 0 ? "" : ",") + std::to_string(spans[i].count);
  }
  return text + (spans.size() > kCountsDescribed ? ",...]" : "]");
}

std::string describe_one(const Collective& op, const std::function<int(int)>& rank_name) {
  std::string text(op_name(op.kind));
  if (op.kind == OpKind::kBarrier) return text;
  text += "(";
  if (reduces(op.kind)) text += std::string(reduce_name(op.reduce)) + ", ";
  text += dtype_name(op.dtype);
  if (has_root(op.kind)) text += ", root " + std::to_string(rank_name(op.root));
  const bool both = !op.in.empty() && !op.out.empty() && op.kind != OpKind::kAllReduce &&
                    op.kind != OpKind::kReduce;
  if (both) {
    text += ", in " + counts_text(op.in) + ", out " + counts_text(op.out);
  } else {
    text += ", " + counts_text(op.in.empty() ? op.out : op.in);
  }
  return text + ")";
}

}  // namespace

bool reduces(OpKind kind) {
  return kind == OpKind::kAllReduce || kind == OpKind::kReduce || kind == OpKind::kReduceScatter;
}

bool has_root(OpKind kind) {
  return kind == OpKind::kBroadcast || kind == OpKind::kReduce || kind == OpKind::kGather ||
         kind == OpKind::kScatter;
}

bool is_consistent(const Collective& op, int rank, int size) {
  const auto n = static_cast<size_t>(size);
  const auto r = static_cast<size_t>(rank);
  if (has_root(op.kind) && (op.root < 0 || op.root >= size)) return false;
  const bool at_root = op.root == rank;
  switch (op.kind) {
    case OpKind::kBarrier:
      return true;
    case OpKind::kBroadcast:
      return op.out.size() == 1;
    case OpKind::kAllReduce:
      return op.in.size() == 1 && op.out.size() == 1 && op.in[0].count == op.out[0].count;
    case OpKind::kReduce:
      return op.in.size() == 1 &&
             (!at_root || (op.out.size() == 1 && op.in[0].count == op.out[0].count));
    case OpKind::kAllGather:
      return op.in.size() == 1 && op.out.size() == n && op.in[0].count == op.out[r].count;
    case OpKind::kReduceScatter:
      return op.in.size() == n && op.out.size() == 1 && op.in[r].count == op.out[0].count;
    case OpKind::kAllToAll:
      return op.in.size() == n && op.out.size() == n;
    case OpKind::kGather:
      return op.in.size() == 1 && (!at_root || op.out.size() == n);
    case OpKind::kScatter:
      return op.out.size() == 1 && (!at_root || op.in.size() == n);
  }
  return false;
}

uint64_t signature_of(std::span<const Collective> ops, int rank, int size) {
  uint64_t hash = mix(0x636f6e766f79, ops.size());
  for (const Collective& op : ops) {
    hash = mix(hash, static_cast<uint64_t>(op.kind) << 16 | static_cast<uint64_t>(op.dtype) << 8 |
                         (reduces(op.kind) ? static_cast<uint64_t>(op.reduce) : 0xff));
    if (has_root(op.kind)) hash = mix(hash, static_cast<uint64_t>(op.root));
    if (!is_consistent(op, rank, size)) return mix(hash, ~static_cast<uint64_t>(rank));
    switch (op.kind) {
      case OpKind::kBroadcast:
      case OpKind::kAllGather:
        hash = mix_counts(hash, op.out);
        break;
      case OpKind::kAllReduce:
      case OpKind::kReduce:
      case OpKind::kReduceScatter:
        hash = mix_counts(hash, op.in);
        break;
      default:
        break;
    }
  }
  return hash;
}

std::string describe(std::span<const Collective> ops, const std::function<int(int)>& rank_name) {
  if (ops.empty()) return "nothing";
  std::string text;
  for (size_t i = 0; i < std::min(ops.size(), kOpsDescribed); ++i) {
    text += (i == 0 ? "" : "; ") + describe_one(ops[i], rank_name);
  }
  if (ops.size() > kOpsDescribed) {
    text += "; and " + std::to_string(ops.size() - kOpsDescribed) + " more";
  }
  return text;
}

}  // namespace convoy::host
