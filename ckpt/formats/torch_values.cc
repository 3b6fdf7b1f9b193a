// Everything that walks a pickle counts its steps: shared nodes can make a small file a huge tree.
#include "ckpt/formats/torch_values.h"

#include "ckpt/formats/tensor_reader.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <set>

namespace convoy::ckpt {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kVisitsMax = uint64_t{1} << 24;
constexpr int64_t kElementsMax = int64_t{1} << 58;  // of a tensor, and of any product on the way

struct Word {
  std::string_view name;
  Dtype dtype;
};
constexpr std::array kDtypes = std::to_array<Word>({
    {"float32", Dtype::kFloat32},
    {"float", Dtype::kFloat32},
    {"float64", Dtype::kFloat64},
    {"double", Dtype::kFloat64},
    {"float16", Dtype::kFloat16},
    {"half", Dtype::kFloat16},
    {"bfloat16", Dtype::kBFloat16},
    {"int8", Dtype::kInt8},
    {"int16", Dtype::kInt16},
    {"short", Dtype::kInt16},
    {"int32", Dtype::kInt32},
    {"int", Dtype::kInt32},
    {"int64", Dtype::kInt64},
    {"long", Dtype::kInt64},
    {"uint8", Dtype::kUInt8},
    {"uint16", Dtype::kUInt16},
    {"uint32", Dtype::kUInt32},
    {"uint64", Dtype::kUInt64},
    {"bool", Dtype::kBool},
    {"complex64", Dtype::kComplex64},
    {"complex128", Dtype::kComplex128},
    {"float8_e4m3fn", Dtype::kFloat8E4M3},
    {"float8_e5m2", Dtype::kFloat8E5M2},
});
constexpr std::array kStorages = std::to_array<Word>({
    {"FloatStorage", Dtype::kFloat32},
    {"DoubleStorage", Dtype::kFloat64},
    {"HalfStorage", Dtype::kFloat16},
    {"BFloat16Storage", Dtype::kBFloat16},
    {"CharStorage", Dtype::kInt8},
    {"ShortStorage", Dtype::kInt16},
    {"IntStorage", Dtype::kInt32},
    {"LongStorage", Dtype::kInt64},
    {"ByteStorage", Dtype::kUInt8},
    {"BoolStorage", Dtype::kBool},
    {"ComplexFloatStorage", Dtype::kComplex64},
    {"ComplexDoubleStorage", Dtype::kComplex128},
});

Status bad(const std::string& what, const std::string& text) {
  return {Code::kDataLoss, what + ": " + text + "."};
}

bool counts(const Pickle& pickle, PickleId id, std::vector<int64_t>& out) {
  if (pickle.is_call(id, "torch Size")) {
    const auto& arguments = pickle[pickle[id].arguments].items;
    if (arguments.size() != 1) return false;
    id = arguments[0];
  }
  if (pickle[id].kind != PickleKind::kTuple || pickle[id].items.size() > kDimsMax) return false;
  out.clear();
  for (const PickleId item : pickle[id].items) {
    if (pickle[item].kind != PickleKind::kInt || pickle[item].number < 0) return false;
    out.push_back(pickle[item].number);
  }
  return true;
}

// ("storage", torch.FloatStorage, key, location, elements)
Status read_storage(const Pickle& pickle, PickleId id, TorchTensor& out, bool& untyped,
                    const std::string& what) {
  const PickleNode& node = pickle[id];
  if (node.kind != PickleKind::kPersistent) return bad(what, "a tensor without a storage");
  const auto& words = pickle[node.items[0]].items;
  const bool right = words.size() == 5 && pickle[words[0]].text == "storage" &&
                     pickle[words[2]].kind == PickleKind::kText &&
                     pickle[words[4]].kind == PickleKind::kInt && pickle[words[4]].number >= 0;
  if (!right) return bad(what, "a storage that is not torch's");
  out.key = pickle[words[2]].text;
  out.storage_elements = static_cast<uint64_t>(pickle[words[4]].number);
  untyped = pickle.is_global(words[1], "torch.storage UntypedStorage") ||
            pickle.is_global(words[1], "torch UntypedStorage");
  if (untyped) return ok_status();
  for (const Word& word : kStorages) {
    if (!pickle.is_global(words[1], "torch " + std::string(word.name))) continue;
    out.dtype = word.dtype;
    return ok_status();
  }
  return {Code::kInvalidArgument, what + ": a tensor in a " + std::string(pickle[words[1]].text) +
                                      ", which checkpoints don't hold."};
}

// Whether all elements lie in the storage; no product overflows.
bool fits(const TorchTensor& tensor) {
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) {
    if (size > 0 && elements > kElementsMax / size) return false;
    elements *= size;
  }
  if (elements == 0) return true;
  int64_t last = 0;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    const int64_t steps = tensor.shape[d] - 1;
    if (steps > 0 && tensor.strides[d] > kElementsMax / steps) return false;
    last += steps * tensor.strides[d];
    if (last > kElementsMax) return false;
  }
  return tensor.offset < tensor.storage_elements &&
         static_cast<uint64_t>(last) < tensor.storage_elements - tensor.offset;
}

class Values {
 public:
  Values(const Pickle& pickle, const std::string& what) : pickle_(pickle), what_(what) {}
  Result<Json> json(PickleId id, int depth);
  Result<bool> has_tensor(PickleId id, int depth);
  Status walk(PickleId id, const std::string& name, const Json& path, int depth, TorchState& out);

 private:
  Status visit(int depth) {
    if (++visits_ <= kVisitsMax && depth <= kPickleDepthMax) return ok_status();
    return {Code::kInvalidArgument, what_ + " has values that are nested too deeply, or too many."};
  }
  Result<Json> text(std::string_view text) {
    const Json made = std::string(text);
    try {
      (void)made.dump();
    } catch (const Json::exception&) {
      return Status(Code::kInvalidArgument, what_ + " has text that is not UTF-8.");
    }
    return made;
  }
  Result<Json> dict(const PickleNode& node, int depth);
  Result<Json> list(const PickleNode& node, int depth);
  Result<Json> call(PickleId id, int depth);
  // The key of an entry as a name; kInvalidArgument if it is neither text nor a number.
  Result<Json> key(PickleId id);

  const Pickle& pickle_;
  const std::string& what_;
  uint64_t visits_ = 0;
  std::set<std::string> names_;
};

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += i + k > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * k) & 63];
    }
  }
  return out;
}

// Two's complement, little-endian, as Python's int(text, 16) reads it.
std::string hex_of(std::string_view raw) {
  const bool negative = static_cast<signed char>(raw.back()) < 0;
  std::string bytes(raw);
  if (negative) {
    unsigned carry = 1;
    for (char& c : bytes) {
      const unsigned value = (static_cast<unsigned char>(c) ^ 0xffU) + carry;
      c = static_cast<char>(value & 0xff);
      carry = value >> 8;
    }
  }
  std::string out = negative ? "-0x" : "0x";
  for (size_t i = bytes.size(); i > 0; --i) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    out += kDigits[static_cast<unsigned char>(bytes[i - 1]) >> 4];
    out += kDigits[static_cast<unsigned char>(bytes[i - 1]) & 15];
  }
  return out;
}

// The bytes of a text whose characters are all below 256 (_codecs.encode(text, 'latin1')).
bool latin1(std::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if ((c == 0xc2 || c == 0xc3) && i + 1 < text.size()) {
      out += static_cast<char>((c & 3U) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3fU));
    } else {
      return false;
    }
  }
  return true;
}

Result<Json> Values::list(const PickleNode& node, int depth) {
  Json out = Json::array();
  for (const PickleId item : node.items) {
    CONVOY_ASSIGN_OR_RETURN(Json value, json(item, depth + 1));
    out.push_back(std::move(value));
  }
  return out;
}

Result<Json> Values::dict(const PickleNode& node, int depth) {
  bool plain = true;
  for (size_t i = 0; i < node.items.size(); i += 2) {
    const PickleNode& key = pickle_[node.items[i]];
    plain = plain && key.kind == PickleKind::kText && !key.text.starts_with('$');
  }
  Json out = plain ? Json::object() : Json{{"$dict", Json::array()}};
  for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
    CONVOY_ASSIGN_OR_RETURN(Json key, json(node.items[i], depth + 1));
    CONVOY_ASSIGN_OR_RETURN(Json value, json(node.items[i + 1], depth + 1));
    if (plain) {
      out[key.get<std::string>()] = std::move(value);
    } else {
      out["$dict"].push_back(Json::array({std::move(key), std::move(value)}));
    }
  }
  return out;
}

Result<Json> Values::call(PickleId id, int depth) {
  const PickleNode& node = pickle_[id];
  const auto& arguments = pickle_[node.arguments].items;
  if (pickle_.is_call(id, "collections OrderedDict") && arguments.empty()) return dict(node, depth);
  if (pickle_.is_call(id, "torch Size") && arguments.size() == 1)
    return json(arguments[0], depth + 1);
  std::string bytes;
  if (pickle_.is_call(id, "_codecs encode") && arguments.size() == 2 &&
      pickle_[arguments[0]].kind == PickleKind::kText &&
      latin1(pickle_[arguments[0]].text, bytes)) {
    return Json{{"$bytes", base64(bytes)}};
  }
  return Status(
      Code::kInvalidArgument,
      what_ + " holds a " + std::string(pickle_[node.callee].text) + ", which is no plain value.");
}

Result<Json> Values::json(PickleId id, int depth) {
  CONVOY_RETURN_IF_ERROR(visit(depth));
  const PickleNode& node = pickle_[id];
  switch (node.kind) {
    case PickleKind::kNone:
      return Json(nullptr);
    case PickleKind::kBool:
      return Json(node.number != 0);
    case PickleKind::kInt:
      return Json(node.number);
    case PickleKind::kBigInt:
      return Json{{"$int", hex_of(node.text)}};
    case PickleKind::kFloat:
      if (std::isfinite(node.real)) return Json(node.real);
      return Json{{"$float", std::isnan(node.real) ? "nan" : node.real > 0 ? "inf" : "-inf"}};
    case PickleKind::kText:
      return text(node.text);
    case PickleKind::kBytes:
      return Json{{"$bytes", base64(node.text)}};
    case PickleKind::kList:
      return list(node, depth);
    case PickleKind::kTuple: {
      CONVOY_ASSIGN_OR_RETURN(Json items, list(node, depth));
      return Json{{"$tuple", std::move(items)}};
    }
    case PickleKind::kDict:
      return dict(node, depth);
    case PickleKind::kCall:
      return call(id, depth);
    default:
      return Status(Code::kInvalidArgument,
                    what_ + " holds " + std::string(node.text.empty() ? "a storage" : node.text) +
                        ", which is no plain value.");
  }
}

Result<bool> Values::has_tensor(PickleId id, int depth) {
  CONVOY_RETURN_IF_ERROR(visit(depth));
  if (is_torch_tensor(pickle_, id)) return true;
  for (const PickleId item : pickle_[id].items) {
    CONVOY_ASSIGN_OR_RETURN(const bool has, has_tensor(item, depth + 1));
    if (has) return true;
  }
  return false;
}

Result<Json> Values::key(PickleId id) {
  const PickleNode& node = pickle_[id];
  if (node.kind == PickleKind::kInt) return Json(node.number);
  if (node.kind == PickleKind::kText) return text(node.text);
  return Status(Code::kInvalidArgument,
                what_ + " has a key that is neither text nor a whole number.");
}

Status Values::walk(PickleId id, const std::string& name, const Json& path, int depth,
                    TorchState& out) {
  CONVOY_RETURN_IF_ERROR(visit(depth));
  const PickleNode& node = pickle_[id];
  const bool is_dict =
      node.kind == PickleKind::kDict || pickle_.is_call(id, "collections OrderedDict");
  bool is_list = false;
  if (node.kind == PickleKind::kList || node.kind == PickleKind::kTuple) {
    CONVOY_ASSIGN_OR_RETURN(is_list, has_tensor(id, depth));
  }
  if ((is_dict && !node.items.empty()) || is_list) {
    const size_t step = is_dict ? 2 : 1;
    for (size_t i = 0; i + step <= node.items.size(); i += step) {
      Json word = i;
      if (is_dict) {
        CONVOY_ASSIGN_OR_RETURN(word, key(node.items[i]));
      }
      const std::string text = word.is_string() ? word.get<std::string>() : word.dump();
      Json inner = path;
      inner.push_back(is_dict && word.is_number() ? Json{{"key", word}} : word);
      CONVOY_RETURN_IF_ERROR(walk(node.items[i + step - 1], depth == 0 ? text : name + "." + text,
                                  inner, depth + 1, out));
    }
    return ok_status();
  }
  if (depth == 0)
    return {Code::kInvalidArgument,
            what_ + " is no state dict: only dicts of tensors and values can be read."};
  if (name.empty() || name.size() > kNameBytesMax || name.find('\0') != std::string::npos) {
    return {Code::kInvalidArgument, what_ + " has a name that is empty, too long or has a NUL."};
  }
  if (!names_.insert(name).second)
    return {Code::kInvalidArgument, what_ + " makes the name " + name + " twice."};
  if (names_.size() > kTensorsMax)
    return {Code::kInvalidArgument, what_ + " has too many tensors and values."};
  out.paths.emplace(name, path.dump());
  const std::string of = what_ + ": " + name;
  if (is_torch_tensor(pickle_, id)) {
    CONVOY_ASSIGN_OR_RETURN(TorchTensor tensor, torch_tensor(pickle_, id, of));
    out.tensors.emplace_back(name, std::move(tensor));
    return ok_status();
  }
  const Result<Json> value = json(id, depth);
  if (!value.ok()) return value.status().with_context(name);
  out.values.emplace_back(name, std::string(kValueMark) + value->dump(-1, ' ', true));
  return ok_status();
}

}  // namespace

Result<Dtype> torch_dtype(std::string_view global, const std::string& what) {
  for (const Word& word : kDtypes) {
    if (global.starts_with("torch ") && global.substr(6) == word.name) return word.dtype;
  }
  return Status(Code::kInvalidArgument,
                what + " has dtype " + std::string(global) + ", which checkpoints don't hold.");
}

uint64_t TorchTensor::elements() const {
  return static_cast<uint64_t>(tensor_elements({"", dtype, shape}));
}

bool TorchTensor::contiguous() const {
  int64_t dense = 1;
  for (size_t d = shape.size(); d > 0; --d) {
    if (shape[d - 1] > 1 && strides[d - 1] != dense) return false;
    dense *= shape[d - 1];
  }
  return true;
}

uint64_t TorchTensor::span() const {
  if (elements() == 0) return 0;
  uint64_t last = 0;
  for (size_t d = 0; d < shape.size(); ++d)
    last += static_cast<uint64_t>((shape[d] - 1) * strides[d]);
  return last + 1;
}

bool is_torch_tensor(const Pickle& pickle, PickleId id) {
  return pickle.is_call(id, "torch._utils _rebuild_parameter") ||
         pickle.is_call(id, "torch._utils _rebuild_tensor") ||
         pickle.is_call(id, "torch._utils _rebuild_tensor_v2") ||
         pickle.is_call(id, "torch._utils _rebuild_tensor_v3");
}

Result<TorchTensor> torch_tensor(const Pickle& pickle, PickleId id, const std::string& what) {
  if (pickle.is_call(id, "torch._utils _rebuild_parameter")) {
    const auto& arguments = pickle[pickle[id].arguments].items;
    if (arguments.empty() || pickle.is_call(arguments[0], "torch._utils _rebuild_parameter")) {
      return bad(what, "a parameter without a tensor");
    }
    id = arguments[0];
  }
  if (!is_torch_tensor(pickle, id)) return bad(what, "no tensor");
  const auto& arguments = pickle[pickle[id].arguments].items;
  const bool v3 = pickle.is_call(id, "torch._utils _rebuild_tensor_v3");
  if (arguments.size() < (v3 ? 7U : 4U)) return bad(what, "a tensor with too few numbers");
  TorchTensor tensor;
  bool untyped = false;
  CONVOY_RETURN_IF_ERROR(read_storage(pickle, arguments[0], tensor, untyped, what));
  if (untyped != v3) return bad(what, "a tensor whose storage has no dtype");
  if (v3) {
    CONVOY_ASSIGN_OR_RETURN(tensor.dtype, torch_dtype(pickle[arguments[6]].text, what));
    tensor.storage_elements /= dtype_bytes(tensor.dtype);
  }
  const PickleNode& offset = pickle[arguments[1]];
  if (offset.kind != PickleKind::kInt || offset.number < 0 ||
      !counts(pickle, arguments[2], tensor.shape) ||
      !counts(pickle, arguments[3], tensor.strides) ||
      tensor.shape.size() != tensor.strides.size()) {
    return bad(what, "a tensor whose shape or strides can't be");
  }
  tensor.offset = static_cast<uint64_t>(offset.number);
  if (!fits(tensor)) return bad(what, "a tensor that is larger than its storage");
  return tensor;
}

Result<std::string> torch_value(const Pickle& pickle, PickleId id, const std::string& what) {
  CONVOY_ASSIGN_OR_RETURN(const Json value, Values(pickle, what).json(id, 0));
  return std::string(kValueMark) + value.dump(-1, ' ', true);
}

Result<TorchState> torch_state(const Pickle& pickle, const std::string& what) {
  TorchState out;
  CONVOY_RETURN_IF_ERROR(Values(pickle, what).walk(pickle.root(), "", Json::array(), 0, out));
  return out;
}

}  // namespace convoy::ckpt
