// One pass over the opcodes with a stack of nodes. What torch's zip files (protocol 2) and DCP's
// .metadata (protocol 4) use, no more.
#include "ckpt/formats/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>

namespace convoy::ckpt {

namespace {

// Dtypes are asked for by the readers; here only that they can be nothing else.
constexpr std::array kGlobals = std::to_array<std::string_view>({
    "_codecs encode",
    "builtins bytearray",
    "builtins complex",
    "builtins dict",
    "builtins frozenset",
    "builtins set",
    "__builtin__ set",
    "collections OrderedDict",
    "collections defaultdict",
    "pathlib PosixPath",
    "pathlib PurePosixPath",
    "pathlib._local PosixPath",
    "torch Size",
    "torch device",
    "torch.distributed.checkpoint.filesystem _StorageInfo",
    "torch.distributed.checkpoint.metadata BytesStorageMetadata",
    "torch.distributed.checkpoint.metadata ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata Metadata",
    "torch.distributed.checkpoint.metadata MetadataIndex",
    "torch.distributed.checkpoint.metadata StorageMeta",
    "torch.distributed.checkpoint.metadata TensorProperties",
    "torch.distributed.checkpoint.metadata TensorStorageMetadata",
    "torch.distributed.checkpoint.metadata _MEM_FORMAT_ENCODING",
    "torch.serialization _get_layout",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage TypedStorage",
    "torch.storage UntypedStorage",
    "torch.nn.parameter Parameter",
});

bool is_word(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

bool is_allowed(std::string_view global) {
  if (std::ranges::find(kGlobals, global) != kGlobals.end()) return true;
  if (!global.starts_with("torch ")) return false;
  const std::string_view name = global.substr(6);
  if (name.ends_with("Storage")) return is_word(name);
  // "torch float32", "torch float8_e4m3fn", "torch bool", "torch strided"
  constexpr std::array kBegins = std::to_array<std::string_view>(
      {"float", "bfloat16", "int", "uint", "bool", "complex", "double", "half", "long", "short"});
  return name == "strided" || (is_word(name) && std::ranges::any_of(kBegins, [&](auto begin) {
                                 return name.starts_with(begin);
                               }));
}

// Text from a hostile file, short and printable.
std::string shown(std::string_view text) {
  constexpr size_t kShownMax = 80;
  std::string out;
  for (const char c : text.substr(0, kShownMax))
    out += c > ' ' && c < 0x7f ? c : (c == ' ' ? '.' : '?');
  return text.size() > kShownMax ? out + "…" : out;
}

}  // namespace

class PickleMachine {
 public:
  PickleMachine(Pickle& out, const std::string& what) : out_(out), what_(what) {}
  static Result<Pickle> parse(std::vector<std::byte> bytes, const std::string& what);

 private:
  Status run();
  enum class Step { kGoOn, kStop };

  Status bad(const std::string& text) const {
    return {Code::kDataLoss,
            what_ + " is no valid pickle: " + text + " at byte " + std::to_string(at_) + "."};
  }
  Status refused(const std::string& text) const {
    return {Code::kInvalidArgument, what_ + " " + text};
  }

  Status take(uint64_t n, std::string_view& out) {
    if (n > out_.bytes_.size() - at_) return bad("it ends too early");
    out = {reinterpret_cast<const char*>(out_.bytes_.data()) + at_, static_cast<size_t>(n)};
    at_ += static_cast<size_t>(n);
    return ok_status();
  }
  Status number(size_t bytes, uint64_t& out) {
    std::string_view raw;
    CONVOY_RETURN_IF_ERROR(take(bytes, raw));
    out = 0;
    for (size_t i = 0; i < bytes; ++i)
      out |= uint64_t{static_cast<unsigned char>(raw[i])} << (8 * i);
    return ok_status();
  }
  Status line(std::string_view& out) {
    const size_t begin = at_;
    while (at_ < out_.bytes_.size() && out_.bytes_[at_] != std::byte{'\n'}) ++at_;
    if (at_ == out_.bytes_.size()) return bad("it ends too early");
    out = {reinterpret_cast<const char*>(out_.bytes_.data()) + begin, at_ - begin};
    ++at_;
    return ok_status();
  }

  PickleId add(PickleNode node) {
    out_.nodes_.push_back(std::move(node));
    return static_cast<PickleId>(out_.nodes_.size() - 1);
  }
  Status push(PickleNode node) {
    stack_.push_back(add(std::move(node)));
    return ok_status();
  }
  Status push(PickleKind kind) {
    PickleNode node;
    node.kind = kind;
    return push(std::move(node));
  }
  Status push_int(int64_t value, PickleKind kind = PickleKind::kInt) {
    PickleNode node;
    node.kind = kind;
    node.number = value;
    return push(std::move(node));
  }
  Status push_text(size_t length_bytes, PickleKind kind) {
    uint64_t length = 0;
    CONVOY_RETURN_IF_ERROR(number(length_bytes, length));
    PickleNode node;
    node.kind = kind;
    CONVOY_RETURN_IF_ERROR(take(length, node.text));
    return push(std::move(node));
  }
  Status pop(PickleId& out) {
    if (stack_.empty() || (!marks_.empty() && marks_.back() == stack_.size())) {
      return bad("its stack is empty");
    }
    out = stack_.back();
    stack_.pop_back();
    return ok_status();
  }
  Status pop_to_mark(std::vector<PickleId>& out) {
    if (marks_.empty()) return bad("a mark is missing");
    out.assign(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return ok_status();
  }
  Status top(PickleId& out) {
    CONVOY_RETURN_IF_ERROR(pop(out));
    stack_.push_back(out);
    return ok_status();
  }
  Status push_items(PickleKind kind, std::vector<PickleId> items) {
    PickleNode node;
    node.kind = kind;
    node.items = std::move(items);
    return push(std::move(node));
  }

  Status push_long(size_t length_bytes);
  Status push_global(std::string_view module, std::string_view name);
  Status call(bool is_new);
  Status build();
  Status fill(std::vector<PickleId> items, bool pairs);
  Status memoize(uint64_t index);
  Status recall(size_t bytes);
  Status step(unsigned char opcode, Step& next);
  Status step_container(unsigned char opcode);
  Status step_text(unsigned char opcode);

  Pickle& out_;
  const std::string& what_;
  size_t at_ = 0;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleId> memo_;
};

Status PickleMachine::push_long(size_t length_bytes) {
  uint64_t length = 0;
  std::string_view raw;
  CONVOY_RETURN_IF_ERROR(number(length_bytes, length));
  CONVOY_RETURN_IF_ERROR(take(length, raw));
  if (raw.size() > 8) {
    PickleNode node;
    node.kind = PickleKind::kBigInt;
    node.text = raw;
    return push(std::move(node));
  }
  uint64_t value = !raw.empty() && static_cast<signed char>(raw.back()) < 0 ? ~uint64_t{0} : 0;
  for (size_t i = raw.size(); i > 0; --i)
    value = value << 8 | static_cast<unsigned char>(raw[i - 1]);
  return push_int(static_cast<int64_t>(value));
}

Status PickleMachine::push_global(std::string_view module, std::string_view name) {
  const std::string& global =
      out_.made_.emplace_back(std::string(module) + " " + std::string(name));
  if (!is_allowed(global)) {
    return refused(
        "refers to " + shown(global) +
        ", which is not plain data: nothing in such a file is executed, so it can't be read.");
  }
  PickleNode node;
  node.kind = PickleKind::kGlobal;
  node.text = global;
  return push(std::move(node));
}

Status PickleMachine::call(bool is_new) {
  PickleNode node;
  node.kind = PickleKind::kCall;
  CONVOY_RETURN_IF_ERROR(pop(node.arguments));
  CONVOY_RETURN_IF_ERROR(pop(node.callee));
  if (out_[node.callee].kind != PickleKind::kGlobal ||
      out_[node.arguments].kind != PickleKind::kTuple) {
    return bad(is_new ? "an object of no class" : "a call of no function");
  }
  return push(std::move(node));
}

Status PickleMachine::build() {
  PickleId state = kNoPickle;
  PickleId object = kNoPickle;
  CONVOY_RETURN_IF_ERROR(pop(state));
  CONVOY_RETURN_IF_ERROR(top(object));
  if (out_[object].kind != PickleKind::kCall) return bad("the state of no object");
  out_.nodes_[object].state = state;
  return ok_status();
}

// Appends to the list or dict on top.
Status PickleMachine::fill(std::vector<PickleId> items, bool pairs) {
  PickleId object = kNoPickle;
  CONVOY_RETURN_IF_ERROR(top(object));
  const PickleKind kind = out_[object].kind;
  if (kind != PickleKind::kCall && kind != (pairs ? PickleKind::kDict : PickleKind::kList)) {
    return bad("items of no container");
  }
  if (pairs && items.size() % 2 != 0) return bad("a key without a value");
  auto& into = out_.nodes_[object].items;
  into.insert(into.end(), items.begin(), items.end());
  return ok_status();
}

Status PickleMachine::memoize(uint64_t index) {
  PickleId id = kNoPickle;
  CONVOY_RETURN_IF_ERROR(top(id));
  memo_[index] = id;
  return ok_status();
}

Status PickleMachine::recall(size_t bytes) {
  uint64_t index = 0;
  CONVOY_RETURN_IF_ERROR(number(bytes, index));
  const auto found = memo_.find(index);
  if (found == memo_.end()) return bad("it refers to something that it has not remembered");
  stack_.push_back(found->second);
  return ok_status();
}

Status PickleMachine::step_text(unsigned char opcode) {
  std::string_view module;
  std::string_view name;
  switch (opcode) {
    case 'X':
      return push_text(4, PickleKind::kText);
    case 0x8c:
      return push_text(1, PickleKind::kText);
    case 0x8d:
      return push_text(8, PickleKind::kText);
    case 'B':
      return push_text(4, PickleKind::kBytes);
    case 'C':
      return push_text(1, PickleKind::kBytes);
    case 0x8e:
    case 0x96:
      return push_text(8, PickleKind::kBytes);
    case 'c':
      CONVOY_RETURN_IF_ERROR(line(module));
      CONVOY_RETURN_IF_ERROR(line(name));
      return push_global(module, name);
    case 0x93: {  // STACK_GLOBAL
      PickleId n = kNoPickle;
      PickleId m = kNoPickle;
      CONVOY_RETURN_IF_ERROR(pop(n));
      CONVOY_RETURN_IF_ERROR(pop(m));
      if (out_[n].kind != PickleKind::kText || out_[m].kind != PickleKind::kText)
        return bad("a global without a name");
      return push_global(out_[m].text, out_[n].text);
    }
    default:
      return refused("uses opcode " + std::to_string(opcode) +
                     ", which torch's files don't have; it can't be read.");
  }
}

Status PickleMachine::step_container(unsigned char opcode) {
  std::vector<PickleId> items;
  switch (opcode) {
    case ')':
      return push(PickleKind::kTuple);
    case ']':
      return push(PickleKind::kList);
    case '}':
      return push(PickleKind::kDict);
    case 0x85:
    case 0x86:
    case 0x87:
      items.resize(opcode - 0x84);
      for (size_t i = items.size(); i > 0; --i) CONVOY_RETURN_IF_ERROR(pop(items[i - 1]));
      return push_items(PickleKind::kTuple, std::move(items));
    case 't':
    case 'l':
    case 'd':
      CONVOY_RETURN_IF_ERROR(pop_to_mark(items));
      if (opcode == 'd' && items.size() % 2 != 0) return bad("a key without a value");
      return push_items(opcode == 't'   ? PickleKind::kTuple
                        : opcode == 'l' ? PickleKind::kList
                                        : PickleKind::kDict,
                        std::move(items));
    case 'a':
      items.resize(1);
      CONVOY_RETURN_IF_ERROR(pop(items[0]));
      return fill(std::move(items), false);
    case 's':
      items.resize(2);
      CONVOY_RETURN_IF_ERROR(pop(items[1]));
      CONVOY_RETURN_IF_ERROR(pop(items[0]));
      return fill(std::move(items), true);
    case 'e':
    case 'u':
      CONVOY_RETURN_IF_ERROR(pop_to_mark(items));
      return fill(std::move(items), opcode == 'u');
    case 'R':
    case 0x81:
      return call(opcode == 0x81);
    case 'b':
      return build();
    case 'Q':
      items.resize(1);
      CONVOY_RETURN_IF_ERROR(pop(items[0]));
      return push_items(PickleKind::kPersistent, std::move(items));
    default:
      return step_text(opcode);
  }
}

Status PickleMachine::step(unsigned char opcode, Step& next) {
  uint64_t value = 0;
  switch (opcode) {
    case 0x80:  // PROTO
      CONVOY_RETURN_IF_ERROR(number(1, value));
      return value >= 2 && value <= 5 ? ok_status()
                                      : bad("protocol " + std::to_string(value) + " is not known");
    case 0x95:  // FRAME
      return number(8, value);
    case '.':
      next = Step::kStop;
      return pop(out_.root_);
    case '(':
      marks_.push_back(stack_.size());
      return ok_status();
    case '0': {
      PickleId dropped = kNoPickle;
      return pop(dropped);
    }
    case 'N':
      return push(PickleKind::kNone);
    case 0x88:
    case 0x89:
      return push_int(opcode == 0x88 ? 1 : 0, PickleKind::kBool);
    case 'J':
      CONVOY_RETURN_IF_ERROR(number(4, value));
      return push_int(static_cast<int32_t>(static_cast<uint32_t>(value)));
    case 'K':
    case 'M':
      CONVOY_RETURN_IF_ERROR(number(opcode == 'K' ? 1 : 2, value));
      return push_int(static_cast<int64_t>(value));
    case 0x8a:
      return push_long(1);
    case 0x8b:
      return push_long(4);
    case 'G': {
      CONVOY_RETURN_IF_ERROR(number(8, value));
      PickleNode node;
      node.kind = PickleKind::kFloat;
      node.real = std::bit_cast<double>(__builtin_bswap64(value));
      return push(std::move(node));
    }
    case 0x94:
      return memoize(memo_.size());
    case 'q':
    case 'r':
      CONVOY_RETURN_IF_ERROR(number(opcode == 'q' ? 1 : 4, value));
      return memoize(value);
    case 'h':
      return recall(1);
    case 'j':
      return recall(4);
    default:
      return step_container(opcode);
  }
}

Status PickleMachine::run() {
  if (out_.bytes_.size() > kPickleBytesMax) return bad("it is too large");
  for (Step next = Step::kGoOn; next == Step::kGoOn;) {
    uint64_t opcode = 0;
    CONVOY_RETURN_IF_ERROR(number(1, opcode));
    CONVOY_RETURN_IF_ERROR(step(static_cast<unsigned char>(opcode), next));
  }
  return stack_.empty() ? ok_status() : bad("something is left over");
}

bool Pickle::is_global(PickleId id, std::string_view global) const {
  return id != kNoPickle && nodes_[id].kind == PickleKind::kGlobal && nodes_[id].text == global;
}

bool Pickle::is_call(PickleId id, std::string_view global) const {
  return id != kNoPickle && nodes_[id].kind == PickleKind::kCall &&
         is_global(nodes_[id].callee, global);
}

PickleId Pickle::find(PickleId id, std::string_view key) const {
  if (id == kNoPickle) return kNoPickle;
  const PickleNode* node = &nodes_[id];
  if (node->kind == PickleKind::kCall && node->state != kNoPickle) node = &nodes_[node->state];
  if (node->kind != PickleKind::kDict && node->kind != PickleKind::kCall) return kNoPickle;
  PickleId found = kNoPickle;  // a later one replaces an earlier one, as in Python
  for (size_t i = 0; i + 1 < node->items.size(); i += 2) {
    const PickleNode& name = nodes_[node->items[i]];
    if (name.kind == PickleKind::kText && name.text == key) found = node->items[i + 1];
  }
  return found;
}

Result<Pickle> PickleMachine::parse(std::vector<std::byte> bytes, const std::string& what) {
  Pickle pickle;
  pickle.bytes_ = std::move(bytes);
  CONVOY_RETURN_IF_ERROR(PickleMachine(pickle, what).run());
  return pickle;
}

Result<Pickle> parse_pickle(std::vector<std::byte> bytes, const std::string& what) {
  return PickleMachine::parse(std::move(bytes), what);
}

}  // namespace convoy::ckpt
