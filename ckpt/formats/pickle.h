#pragma once

#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Python's pickles as data. A pickle is a program for a small machine, and Python's own runs
// whatever it names. This machine only records: a global is its name, a call is a node with its
// arguments. Names that are not on a short list are refused, and so is every opcode that torch's
// files don't use.
namespace convoy::ckpt {

inline constexpr uint64_t kPickleBytesMax = uint64_t{1} << 30;
inline constexpr int kPickleDepthMax = 64;  // that readers of the nodes follow

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,     // fits int64
  kBigInt,  // `text`: two's complement, little-endian
  kFloat,
  kText,  // UTF-8, or what Python makes of lone surrogates
  kBytes,
  kList,
  kTuple,
  kDict,        // items: key, value, key, value …
  kGlobal,      // `text`: "module name"
  kCall,        // callee, arguments (a tuple); items as of a dict or list if it was filled; state
  kPersistent,  // items[0]: the id
};
using PickleId = uint32_t;
inline constexpr PickleId kNoPickle = UINT32_MAX;

struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  int64_t number = 0;  // kBool, kInt
  double real = 0;     // kFloat
  std::string_view text;
  std::vector<PickleId> items;
  PickleId callee = kNoPickle;
  PickleId arguments = kNoPickle;
  PickleId state = kNoPickle;
};

// A parsed pickle. Nodes may be shared, and lists may contain themselves: whoever follows them must
// count.
class Pickle {
 public:
  Pickle() = default;
  Pickle(Pickle&&) = default;  // not copied: nodes point into its memory
  Pickle& operator=(Pickle&&) = default;

  const PickleNode& operator[](PickleId id) const { return nodes_[id]; }
  PickleId root() const { return root_; }
  size_t size() const { return nodes_.size(); }

  // Whether the node is a call of that global, as "collections OrderedDict".
  bool is_call(PickleId id, std::string_view global) const;
  bool is_global(PickleId id, std::string_view global) const;
  // The value behind a text key of a dict, of a dict-like call, or of an object's state; kNoPickle.
  PickleId find(PickleId id, std::string_view key) const;

 private:
  friend class PickleMachine;
  std::vector<std::byte> bytes_;  // the texts' memory
  std::deque<std::string> made_;  // names that no opcode holds in one piece
  std::vector<PickleNode> nodes_;
  PickleId root_ = kNoPickle;
};

// `what` is for messages. kDataLoss: not a whole pickle of protocol 2 to 5. kInvalidArgument: it
// uses something that is refused, named. Memory: a small multiple of the bytes.
Result<Pickle> parse_pickle(std::vector<std::byte> bytes, const std::string& what);

}  // namespace convoy::ckpt
