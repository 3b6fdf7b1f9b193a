#include "ckpt/formats/torch_write.h"

#include "ckpt/formats/tensor_reader.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <zlib.h>

namespace convoy::ckpt {
namespace {

using Json = nlohmann::json;
constexpr uint64_t kAlignment = 64;  // of records' bytes
constexpr uint64_t kSmallMax = 0xfffffffe;
constexpr uint16_t kFlags = 0x0808;  // sizes follow the bytes; names are UTF-8

// {torch's name of the dtype, of its typed storage ("": none)}
std::pair<std::string_view, std::string_view> names_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
      return {"float32", "FloatStorage"};
    case Dtype::kFloat64:
      return {"float64", "DoubleStorage"};
    case Dtype::kFloat16:
      return {"float16", "HalfStorage"};
    case Dtype::kBFloat16:
      return {"bfloat16", "BFloat16Storage"};
    case Dtype::kInt8:
      return {"int8", "CharStorage"};
    case Dtype::kInt16:
      return {"int16", "ShortStorage"};
    case Dtype::kInt32:
      return {"int32", "IntStorage"};
    case Dtype::kInt64:
      return {"int64", "LongStorage"};
    case Dtype::kUInt8:
    case Dtype::kBytes:
      return {"uint8", "ByteStorage"};
    case Dtype::kUInt16:
      return {"uint16", ""};
    case Dtype::kUInt32:
      return {"uint32", ""};
    case Dtype::kUInt64:
      return {"uint64", ""};
    case Dtype::kBool:
      return {"bool", "BoolStorage"};
    case Dtype::kComplex64:
      return {"complex64", "ComplexFloatStorage"};
    case Dtype::kComplex128:
      return {"complex128", "ComplexDoubleStorage"};
    case Dtype::kFloat8E4M3:
      return {"float8_e4m3fn", ""};
    case Dtype::kFloat8E5M2:
      return {"float8_e5m2", ""};
  }
  return {};
}

void put(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

bool from_base64(const std::string& text, std::string& out) {
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    const auto at =
        std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
            .find(c);
    if (at == std::string_view::npos) return false;
    bits = bits << 6 | static_cast<uint32_t>(at);
    count += 6;
    if (count >= 8) out += static_cast<char>(bits >> (count -= 8) & 0xff);
  }
  return true;
}

// "-0x1f" as two's complement, little-endian.
bool from_hex(std::string_view text, std::string& out) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  if (!text.starts_with("0x") || text.size() > 512) return false;
  text.remove_prefix(2);
  for (size_t i = text.size(); i > 0;) {
    unsigned byte = 0;
    for (int shift = 0; shift < 8 && i > 0; shift += 4) {
      const auto at = std::string_view("0123456789abcdef").find(text[--i]);
      if (at == std::string_view::npos) return false;
      byte |= static_cast<unsigned>(at) << shift;
    }
    out += static_cast<char>(byte);
  }
  out += '\0';  // the sign
  if (!negative) return true;
  unsigned carry = 1;
  for (char& c : out) {
    const unsigned value = (static_cast<unsigned char>(c) ^ 0xffU) + carry;
    c = static_cast<char>(value & 0xff);
    carry = value >> 8;
  }
  return true;
}

}  // namespace

void PickleWriter::number(uint64_t value, int bytes) {
  put(out_, value, bytes);
}

void PickleWriter::integer(int64_t value) {
  if (value >= 0 && value < 256) {
    op('K');
    return number(static_cast<uint64_t>(value), 1);
  }
  if (value >= INT32_MIN && value <= INT32_MAX) {
    op('J');
    return number(static_cast<uint64_t>(value), 4);
  }
  op('\x8a');
  number(8, 1);
  number(static_cast<uint64_t>(value), 8);
}

void PickleWriter::real(double value) {
  op('G');
  number(__builtin_bswap64(std::bit_cast<uint64_t>(value)), 8);
}

void PickleWriter::text(std::string_view text) {
  op('X');
  number(text.size(), 4);
  out_ += text;
}

// As Python's protocol 2 has them: a call that turns text into bytes.
void PickleWriter::bytes(std::string_view bytes) {
  std::string utf8;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) utf8 += static_cast<char>(0xc0 | byte >> 6);
    utf8 += static_cast<char>(byte >= 0x80 ? 0x80 | (byte & 0x3f) : byte);
  }
  global("_codecs", "encode");
  mark();
  text(utf8);
  text("latin1");
  tuple();
  reduce();
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  op('c');
  out_ += std::string(module) + "\n" + std::string(name) + "\n";
}

void PickleWriter::counts(std::span<const int64_t> numbers) {
  mark();
  for (const int64_t n : numbers) integer(n);
  tuple();
}

void PickleWriter::dtype(Dtype dtype) {
  global("torch", names_of(dtype).first);
}

void PickleWriter::tensor(const TensorInfo& info, const std::string& key) {
  const auto elements = static_cast<int64_t>(tensor_elements(info));
  const auto [name, storage] = names_of(info.dtype);
  const bool typed = !storage.empty();
  global("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
  mark();
  mark();
  text("storage");
  global(typed ? "torch" : "torch.storage", typed ? storage : "UntypedStorage");
  text(key);
  text("cpu");
  integer(typed ? elements : static_cast<int64_t>(tensor_bytes(info)));
  tuple();
  op('Q');
  integer(0);
  counts(info.shape);
  std::vector<int64_t> strides(info.shape.size(), 1);
  for (size_t d = strides.size(); d > 1; --d)
    strides[d - 2] = strides[d - 1] * std::max<int64_t>(1, info.shape[d - 1]);
  counts(strides);
  boolean(false);
  global("collections", "OrderedDict");
  op(')');
  reduce();
  if (!typed) dtype(info.dtype);
  tuple();
  reduce();
}

Status PickleWriter::value(const Json& v) {
  const Status wrong(Code::kInvalidArgument, "a value is not of convoy.checkpoint's form");
  switch (v.type()) {
    case Json::value_t::null:
      none();
      return ok_status();
    case Json::value_t::boolean:
      boolean(v.get<bool>());
      return ok_status();
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      integer(v.get<int64_t>());
      return ok_status();
    case Json::value_t::number_float:
      real(v.get<double>());
      return ok_status();
    case Json::value_t::string:
      text(v.get_ref<const std::string&>());
      return ok_status();
    case Json::value_t::array:
      op(']');
      mark();
      for (const Json& item : v) CONVOY_RETURN_IF_ERROR(value(item));
      op('e');
      return ok_status();
    case Json::value_t::object:
      break;
    default:
      return wrong;
  }
  const std::string first = v.size() == 1 ? v.begin().key() : "";
  const Json* inner = v.size() == 1 ? &v.begin().value() : nullptr;
  if (first == "$tuple" && inner->is_array()) {
    mark();
    for (const Json& item : *inner) CONVOY_RETURN_IF_ERROR(value(item));
    tuple();
    return ok_status();
  }
  if (first == "$float" && inner->is_string()) {
    const std::string text = inner->get<std::string>();
    real(text == "inf" ? HUGE_VAL : text == "-inf" ? -HUGE_VAL : std::nan(""));
    return ok_status();
  }
  std::string raw;
  if (first == "$bytes" && inner->is_string()) {
    if (!from_base64(inner->get<std::string>(), raw)) return wrong;
    bytes(raw);
    return ok_status();
  }
  if (first == "$int" && inner->is_string()) {
    if (!from_hex(inner->get<std::string>(), raw) || raw.size() > 255) return wrong;
    op('\x8a');
    number(raw.size(), 1);
    out_ += raw;
    return ok_status();
  }
  const bool pairs = first == "$dict" && inner->is_array();
  op('}');
  mark();
  for (const auto& item : pairs ? inner->items() : v.items()) {
    if (!pairs) {
      text(item.key());
      CONVOY_RETURN_IF_ERROR(value(item.value()));
      continue;
    }
    if (!item.value().is_array() || item.value().size() != 2) return wrong;
    CONVOY_RETURN_IF_ERROR(value(item.value()[0]));
    CONVOY_RETURN_IF_ERROR(value(item.value()[1]));
  }
  op('u');
  return ok_status();
}

Status TorchZipWriter::begin(const std::string& name, uint64_t bytes) {
  entries_.push_back({name, size(), bytes, 0});
  const bool large = bytes > kSmallMax;
  std::string extra;
  if (large) {
    put(extra, 1, 2);
    put(extra, 16, 2);
    extra.append(16, '\0');
  }
  // The bytes begin aligned, as torch wants them for mapping.
  uint64_t begin = entries_.back().offset + 30 + name.size() + extra.size() + 4;
  const uint64_t padding = (kAlignment - begin % kAlignment) % kAlignment;
  extra += "FB";
  put(extra, padding, 2);
  extra.append(padding, 'Z');
  std::string header = "PK\3\4";
  put(header, large ? 45 : 20, 2);
  put(header, kFlags, 2);
  put(header, 0, 2);  // stored
  put(header, 0, 4);  // no time
  put(header, 0, 4);  // the checksum follows the bytes
  put(header, large ? 0xffffffff : 0, 4);
  put(header, large ? 0xffffffff : 0, 4);
  put(header, name.size(), 2);
  put(header, extra.size(), 2);
  header += name + extra;
  return file_.append(std::as_bytes(std::span(header)));
}

Status TorchZipWriter::append(std::span<const std::byte> bytes) {
  Entry& entry = entries_.back();
  entry.crc = static_cast<uint32_t>(
      crc32_z(entry.crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
  return file_.append(bytes);
}

Status TorchZipWriter::end() {
  const Entry& entry = entries_.back();
  const int width = entry.bytes > kSmallMax ? 8 : 4;
  std::string descriptor = "PK\7\10";
  put(descriptor, entry.crc, 4);
  put(descriptor, entry.bytes, width);
  put(descriptor, entry.bytes, width);
  return file_.append(std::as_bytes(std::span(descriptor)));
}

Status TorchZipWriter::record(const std::string& name, std::string_view bytes) {
  CONVOY_RETURN_IF_ERROR(begin(name, bytes.size()));
  CONVOY_RETURN_IF_ERROR(append(std::as_bytes(std::span(bytes))));
  return end();
}

Status TorchZipWriter::finish() {
  CONVOY_RETURN_IF_ERROR(record("archive/.format_version", "1"));
  CONVOY_RETURN_IF_ERROR(record("archive/.storage_alignment", "64"));
  CONVOY_RETURN_IF_ERROR(record("archive/byteorder", "little"));
  CONVOY_RETURN_IF_ERROR(record("archive/version", "3\n"));
  const uint64_t directory = size();
  std::string out;
  for (const Entry& entry : entries_) {
    const bool large = entry.bytes > kSmallMax;
    const bool far = entry.offset > kSmallMax;
    std::string extra;
    if (large || far) {
      put(extra, 1, 2);
      put(extra, (large ? 16U : 0U) + (far ? 8U : 0U), 2);
      if (large) put(extra, entry.bytes, 8);
      if (large) put(extra, entry.bytes, 8);
      if (far) put(extra, entry.offset, 8);
    }
    out += "PK\1\2";
    put(out, 45, 2);
    put(out, large || far ? 45 : 20, 2);
    put(out, kFlags, 2);
    put(out, 0, 2);
    put(out, 0, 4);
    put(out, entry.crc, 4);
    put(out, large ? 0xffffffff : entry.bytes, 4);
    put(out, large ? 0xffffffff : entry.bytes, 4);
    put(out, entry.name.size(), 2);
    put(out, extra.size(), 2);
    put(out, 0, 6);
    put(out, 0, 4);
    put(out, far ? 0xffffffff : entry.offset, 4);
    out += entry.name + extra;
  }
  const uint64_t bytes = out.size();
  if (directory > kSmallMax || entries_.size() >= 0xffff || bytes > kSmallMax) {
    out += "PK\6\6";
    put(out, 44, 8);
    put(out, 45, 2);
    put(out, 45, 2);
    put(out, 0, 8);
    put(out, entries_.size(), 8);
    put(out, entries_.size(), 8);
    put(out, bytes, 8);
    put(out, directory, 8);
    out += "PK\6\7";
    put(out, 0, 4);
    put(out, directory + bytes, 8);
    put(out, 1, 4);
  }
  const uint64_t count = std::min<uint64_t>(entries_.size(), 0xffff);
  out += "PK\5\6";
  put(out, 0, 4);
  put(out, count, 2);
  put(out, count, 2);
  put(out, std::min<uint64_t>(bytes, 0xffffffff), 4);
  put(out, directory > kSmallMax ? 0xffffffff : directory, 4);
  put(out, 0, 2);
  return file_.append(std::as_bytes(std::span(out)));
}

}  // namespace convoy::ckpt
