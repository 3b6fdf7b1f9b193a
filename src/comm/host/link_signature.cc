// What "the ranks agree" means for each collective, and how a request is written and told.
#include "src/comm/host/link_signature.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

namespace convoy::host {
namespace {

constexpr uint32_t kOpsMax = 1 << 16;
constexpr uint8_t kUniformIn = 1;
constexpr uint8_t kUniformOut = 2;

// The fixed part of one collective on the wire.
struct WireOp {
  uint8_t kind;
  uint8_t dtype;
  uint8_t reduce;
  uint8_t flags;  // kUniformIn, kUniformOut: one count stands for all
  int32_t root;
  double premul;
  uint32_t in;
  uint32_t out;
};
static_assert(sizeof(WireOp) == 24);

template <class T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
bool take(std::string_view& bytes, T& value) {
  if (bytes.size() < sizeof value) return false;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return true;
}

bool uniform(const std::vector<uint64_t>& counts) {
  return counts.size() > 1 &&
         std::all_of(counts.begin(), counts.end(), [&](uint64_t c) { return c == counts[0]; });
}

void append_counts(std::string& bytes, const std::vector<uint64_t>& counts) {
  const size_t stored = uniform(counts) ? 1 : counts.size();
  bytes.append(reinterpret_cast<const char*>(counts.data()), stored * sizeof(uint64_t));
}

bool take_counts(std::string_view& bytes, bool is_uniform, size_t count,
                 std::vector<uint64_t>& counts) {
  if (is_uniform) {
    uint64_t value = 0;
    if (!take(bytes, value)) return false;
    counts.assign(count, value);
    return true;
  }
  counts.resize(count);
  for (uint64_t& value : counts) {
    if (!take(bytes, value)) return false;
  }
  return true;
}

std::string counts_text(const std::vector<uint64_t>& counts) {
  if (uniform(counts)) return std::to_string(counts.size()) + "x" + std::to_string(counts[0]);
  std::string text;
  for (const uint64_t count : counts) {
    if (!text.empty()) text += "+";
    text += std::to_string(count);
  }
  return text;
}

bool is_rooted(OpKind kind) {
  return kind == OpKind::kBroadcast || kind == OpKind::kReduce || kind == OpKind::kGather ||
         kind == OpKind::kScatter;
}

// Elements that `mine` sends to rank `to`, and that `theirs` expects from rank `from`.
std::optional<uint64_t> sent(const OpSignature& mine, int from, int to) {
  switch (mine.kind) {
    case OpKind::kBarrier:
      return std::nullopt;
    case OpKind::kBroadcast:
      return mine.out[0];
    case OpKind::kAllReduce:
    case OpKind::kReduce:
    case OpKind::kAllGather:
      return mine.in[0];
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll:
      return mine.in[to];
    case OpKind::kGather:
      return to == mine.root ? std::optional(mine.in[0]) : std::nullopt;
    case OpKind::kScatter:
      return from == mine.root ? std::optional(mine.in[to]) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<uint64_t> expected(const OpSignature& theirs, int from, int to) {
  switch (theirs.kind) {
    case OpKind::kBarrier:
      return std::nullopt;
    case OpKind::kBroadcast:
      return theirs.out[0];
    case OpKind::kAllReduce:
    case OpKind::kReduce:
      return theirs.in[0];
    case OpKind::kAllGather:
    case OpKind::kAllToAll:
      return theirs.out[from];
    case OpKind::kReduceScatter:
      return theirs.out[0];
    case OpKind::kGather:
      return to == theirs.root ? std::optional(theirs.out[from]) : std::nullopt;
    case OpKind::kScatter:
      return from == theirs.root ? std::optional(theirs.out[0]) : std::nullopt;
  }
  return std::nullopt;
}

bool same_kind(const OpSignature& a, const OpSignature& b) {
  return a.kind == b.kind && a.dtype == b.dtype && a.root == b.root &&
         (!is_reducing(a.kind) || a.reduce == b.reduce);
}

bool agree(const std::vector<std::vector<OpSignature>>& by_rank, size_t op) {
  const int size = static_cast<int>(by_rank.size());
  for (int p = 0; p < size; ++p) {
    if (!same_kind(by_rank[0][op], by_rank[p][op])) return false;
  }
  for (int p = 0; p < size; ++p) {
    for (int q = 0; q < size; ++q) {
      if (sent(by_rank[p][op], p, q) != expected(by_rank[q][op], p, q)) return false;
    }
  }
  return true;
}

// "rank 0 asked for X; ranks 1, 2 for Y".
std::string requests_text(const std::map<std::string, std::vector<int>>& requests) {
  std::string text;
  for (const auto& [request, ranks] : requests) {
    text += (text.empty() ? "" : "; ") + std::string(ranks.size() == 1 ? "rank " : "ranks ") +
            join_ranks(ranks) + " asked for " + request;
  }
  return text;
}

size_t spans_in(OpKind kind, bool is_root, size_t size) {
  switch (kind) {
    case OpKind::kBarrier:
    case OpKind::kBroadcast:
      return 0;
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll:
      return size;
    case OpKind::kScatter:
      return is_root ? size : 0;
    default:
      return 1;
  }
}

size_t spans_out(OpKind kind, bool is_root, size_t size) {
  switch (kind) {
    case OpKind::kBarrier:
      return 0;
    case OpKind::kAllGather:
    case OpKind::kAllToAll:
      return size;
    case OpKind::kGather:
      return is_root ? size : 0;
    case OpKind::kReduce:
      return is_root ? 1 : 0;
    default:
      return 1;
  }
}

}  // namespace

bool is_reducing(OpKind kind) {
  return kind == OpKind::kAllReduce || kind == OpKind::kReduce || kind == OpKind::kReduceScatter;
}

std::string join_ranks(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) {
    if (!text.empty()) text += ", ";
    text += std::to_string(rank);
  }
  return text;
}

std::string OpSignature::to_string() const {
  std::string text(op_name(kind));
  if (kind == OpKind::kBarrier) return text;
  text += "(";
  if (is_reducing(kind)) text += std::string(reduce_name(reduce)) + ", ";
  text += dtype_name(dtype);
  if (is_rooted(kind)) text += ", root " + std::to_string(root);
  if (!in.empty()) text += ", in " + counts_text(in);
  if (!out.empty()) text += ", out " + counts_text(out);
  return text + ")";
}

OpSignature op_signature(const Collective& op, int rank, int size) {
  OpSignature signature{op.kind, op.dtype, op.reduce, op.root, op.premul, {}, {}};
  const bool is_root = rank == op.root;
  const size_t in = spans_in(op.kind, is_root, static_cast<size_t>(size));
  const size_t out = spans_out(op.kind, is_root, static_cast<size_t>(size));
  for (size_t i = 0; i < in; ++i) signature.in.push_back(op.in[i].count);
  for (size_t i = 0; i < out; ++i) signature.out.push_back(op.out[i].count);
  return signature;
}

Status check_collective(const Collective& op, int rank, int size) {
  const auto bad = [&](const std::string& why) {
    return Status(Code::kInvalidArgument, std::string(op_name(op.kind)) + ": " + why);
  };
  if (is_rooted(op.kind) && (op.root < 0 || op.root >= size)) {
    return bad("root " + std::to_string(op.root) + " is no rank of this group of " +
               std::to_string(size));
  }
  const bool is_root = rank == op.root;
  const size_t in = spans_in(op.kind, is_root, static_cast<size_t>(size));
  const size_t out = spans_out(op.kind, is_root, static_cast<size_t>(size));
  if (op.in.size() < in || op.out.size() < out) {
    return bad("needs " + std::to_string(in) + " inputs and " + std::to_string(out) +
               " outputs, got " + std::to_string(op.in.size()) + " and " +
               std::to_string(op.out.size()));
  }
  for (const auto* spans : {&op.in, &op.out}) {
    for (const Span& span : *spans) {
      if (span.data == nullptr && span.count != 0) return bad("null data with a count");
    }
  }
  if (op.kind == OpKind::kAllReduce && op.in[0].count != op.out[0].count) {
    return bad("input and output differ in size");
  }
  if (op.kind == OpKind::kReduce && is_root && op.in[0].count != op.out[0].count) {
    return bad("input and output differ in size");
  }
  return ok_status();
}

std::string encode_signatures(std::span<const Collective> ops, int rank, int size) {
  std::string bytes;
  append(bytes, static_cast<uint32_t>(ops.size()));
  for (const Collective& op : ops) {
    const OpSignature s = op_signature(op, rank, size);
    WireOp wire{};
    wire.kind = static_cast<uint8_t>(s.kind);
    wire.dtype = static_cast<uint8_t>(s.dtype);
    wire.reduce = static_cast<uint8_t>(s.reduce);
    wire.flags =
        static_cast<uint8_t>((uniform(s.in) ? kUniformIn : 0) | (uniform(s.out) ? kUniformOut : 0));
    wire.root = s.root;
    wire.premul = s.premul;
    wire.in = static_cast<uint32_t>(s.in.size());
    wire.out = static_cast<uint32_t>(s.out.size());
    append(bytes, wire);
    append_counts(bytes, s.in);
    append_counts(bytes, s.out);
  }
  return bytes;
}

Result<std::vector<OpSignature>> decode_signatures(std::string_view bytes, int rank, int size) {
  const Status bad(Code::kDataLoss, "a request of another rank can't be understood");
  uint32_t count = 0;
  if (!take(bytes, count) || count > kOpsMax) return bad;
  std::vector<OpSignature> signatures;
  for (uint32_t i = 0; i < count; ++i) {
    WireOp wire{};
    if (!take(bytes, wire)) return bad;
    if (wire.kind > static_cast<uint8_t>(OpKind::kScatter) ||
        wire.dtype > static_cast<uint8_t>(DType::kC128) ||
        wire.reduce > static_cast<uint8_t>(ReduceOp::kPremulSum) || wire.root < 0 ||
        wire.root >= size) {
      return bad;
    }
    const auto kind = static_cast<OpKind>(wire.kind);
    const bool is_root = rank == wire.root;
    if (wire.in != spans_in(kind, is_root, static_cast<size_t>(size)) ||
        wire.out != spans_out(kind, is_root, static_cast<size_t>(size))) {
      return bad;
    }
    OpSignature s;
    s.kind = kind;
    s.dtype = static_cast<DType>(wire.dtype);
    s.reduce = static_cast<ReduceOp>(wire.reduce);
    s.root = wire.root;
    s.premul = wire.premul;
    if (!take_counts(bytes, (wire.flags & kUniformIn) != 0, wire.in, s.in) ||
        !take_counts(bytes, (wire.flags & kUniformOut) != 0, wire.out, s.out)) {
      return bad;
    }
    signatures.push_back(std::move(s));
  }
  if (!bytes.empty()) return bad;
  return signatures;
}

Status check_agreement(const std::vector<std::vector<OpSignature>>& by_rank,
                       const std::vector<int>& names) {
  std::map<std::string, std::vector<int>> requests;
  for (size_t r = 0; r < by_rank.size(); ++r) {
    requests[std::to_string(by_rank[r].size()) + " collectives at once"].push_back(names[r]);
  }
  if (requests.size() > 1) {
    return Status(Code::kMismatch, "the ranks disagree: " + requests_text(requests));
  }
  for (size_t op = 0; op < by_rank[0].size(); ++op) {
    if (agree(by_rank, op)) continue;
    requests.clear();
    for (size_t r = 0; r < by_rank.size(); ++r) {
      requests[by_rank[r][op].to_string()].push_back(names[r]);
    }
    return Status(Code::kMismatch, "the ranks disagree: " + requests_text(requests));
  }
  return ok_status();
}

}  // namespace convoy::host
