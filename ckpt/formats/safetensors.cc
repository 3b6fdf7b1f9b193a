// The header of a safetensors file and the index of several. The JSON is read event by event, so
// that hostile nesting costs nothing and a name that comes twice is seen.
#include "ckpt/formats/safetensors.h"

#include "ckpt/formats/tensor_reader.h"
#include "ckpt/manifest/check.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

namespace convoy::ckpt {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kAlignment = 8;     // of the data, by spaces in the header
constexpr size_t kIndexDepthMax = 16;  // nesting of an index
constexpr std::string_view kMetadataKey = "__metadata__";

struct Word {
  std::string_view name;
  Dtype dtype;
};
constexpr std::array<Word, 16> kWords{{{"F64", Dtype::kFloat64},
                                       {"F32", Dtype::kFloat32},
                                       {"F16", Dtype::kFloat16},
                                       {"BF16", Dtype::kBFloat16},
                                       {"I64", Dtype::kInt64},
                                       {"I32", Dtype::kInt32},
                                       {"I16", Dtype::kInt16},
                                       {"I8", Dtype::kInt8},
                                       {"U64", Dtype::kUInt64},
                                       {"U32", Dtype::kUInt32},
                                       {"U16", Dtype::kUInt16},
                                       {"U8", Dtype::kUInt8},
                                       {"BOOL", Dtype::kBool},
                                       {"C64", Dtype::kComplex64},
                                       {"F8_E4M3", Dtype::kFloat8E4M3},
                                       {"F8_E5M2", Dtype::kFloat8E5M2}}};

// Text from a hostile file, short and on one line.
std::string shown(std::string_view text) {
  constexpr size_t kShownMax = 80;
  std::string out = Json(std::string(text.substr(0, kShownMax)))
                        .dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > kShownMax ? out + "…" : out;
}

// What both readers share: no numbers but unsigned ones, messages.
class Events : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return wrong("null"); }
  bool boolean(bool /*value*/) override { return wrong("a truth value"); }
  bool number_integer(number_integer_t /*value*/) override { return wrong("a negative number"); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return wrong("a number"); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return wrong("a number that is not a whole one, or too large");
  }
  bool string(string_t& /*value*/) override { return wrong("a text"); }
  bool binary(binary_t& /*value*/) override { return wrong("binary data"); }
  bool start_array(size_t /*n*/) override { return wrong("a list"); }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return refuse("it is no valid JSON at byte " + std::to_string(position));
  }

  const std::string& error() const { return error_; }

 protected:
  bool refuse(std::string text) {
    if (error_.empty()) error_ = std::move(text);
    return false;
  }
  bool wrong(const std::string& what) { return refuse(what + " stands where none may" + where()); }
  virtual std::string where() const { return ""; }

 private:
  std::string error_;
};

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
class HeaderEvents final : public Events {
 public:
  explicit HeaderEvents(SafetensorsHeader& out) : out_(out) {}

  bool start_object(size_t /*n*/) override {
    if (depth_ == 2 || in_list_) return wrong("an object");
    ++depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) return begin_entry(name);
    if (in_metadata_) {
      if (out_.metadata.size() == kSafetensorsMetadataMax) return refuse("too much metadata");
      if (out_.metadata.contains(name))
        return refuse("metadata " + shown(name) + " is there twice");
      field_ = name;
      return true;
    }
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return refuse("tensor " + shown(entry_) + " has a field " + shown(name) +
                    " that is not known");
    }
    if (!fields_.insert(name).second) return refuse("tensor " + shown(entry_) + " has two " + name);
    field_ = name;
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ != 2 || in_list_) return wrong("a text");
    if (in_metadata_) {
      out_.metadata.emplace(field_, value);
      return true;
    }
    if (field_ != "dtype") return wrong("a text");
    const auto* word = std::ranges::find(kWords, value, &Word::name);
    if (word == kWords.end()) {
      return refuse("tensor " + shown(entry_) + " has dtype " + shown(value) +
                    ", which this program does not know");
    }
    out_.tensors.back().info.dtype = word->dtype;
    return true;
  }
  bool start_array(size_t /*n*/) override {
    if (depth_ != 2 || in_list_ || in_metadata_ || field_ == "dtype") return wrong("a list");
    in_list_ = true;
    return true;
  }
  bool end_array() override {
    in_list_ = false;
    return field_ == "shape" || offsets_ == 2 ||
           refuse("tensor " + shown(entry_) + " has not two data_offsets");
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) return wrong("a number");
    SafetensorsTensor& tensor = out_.tensors.back();
    if (field_ == "data_offsets") {
      if (offsets_ == 2)
        return refuse("tensor " + shown(entry_) + " has more than two data_offsets");
      (offsets_++ == 0 ? tensor.begin : tensor.end) = value;
      return true;
    }
    if (value > kTensorBytesMax || tensor.info.shape.size() == kDimsMax) {
      return refuse("tensor " + shown(entry_) + " has more than " + std::to_string(kDimsMax) +
                    " dimensions, or a huge one");
    }
    tensor.info.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 0 || std::exchange(in_metadata_, false)) return true;
    if (fields_.size() == 3) return true;
    return refuse("tensor " + shown(entry_) + " lacks dtype, shape or data_offsets");
  }

 private:
  bool begin_entry(const std::string& name) {
    entry_ = name;
    fields_.clear();
    offsets_ = 0;
    if (!names_.insert(name).second) return refuse(shown(name) + " is there twice");
    in_metadata_ = name == kMetadataKey;
    if (in_metadata_) return true;
    if (out_.tensors.size() == kTensorsMax) return refuse("it has too many tensors");
    if (name.empty() || name.size() > kNameBytesMax || name.find('\0') != std::string::npos) {
      return refuse("tensor name " + shown(name) + " is empty, too long or has a NUL");
    }
    out_.tensors.emplace_back().info.name = name;
    return true;
  }
  std::string where() const override { return entry_.empty() ? "" : ", at " + shown(entry_); }

  SafetensorsHeader& out_;
  std::set<std::string> names_;
  std::set<std::string> fields_;  // of the tensor that is being read
  std::string entry_;
  std::string field_;
  int depth_ = 0;
  int offsets_ = 0;
  bool in_list_ = false;
  bool in_metadata_ = false;
};

// {"metadata": anything, "weight_map": {"name": "file", …}}
class IndexEvents final : public Events {
 public:
  explicit IndexEvents(std::map<std::string, std::string>& out) : out_(out) {}

  bool null() override { return skip("null"); }
  bool boolean(bool /*value*/) override { return skip("a truth value"); }
  bool number_integer(number_integer_t /*value*/) override { return skip("a number"); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return skip("a number"); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return skip("a number");
  }
  bool start_array(size_t /*n*/) override { return skip("a list") && deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool start_object(size_t /*n*/) override {
    if (in_map_ && depth_ == 2) return wrong("an object");
    return deeper();
  }
  bool end_object() override {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      in_map_ = name == "weight_map";
      if (in_map_ && std::exchange(seen_, true)) return refuse("weight_map is there twice");
    }
    name_ = name;
    return true;
  }
  bool string(string_t& value) override {
    if (!in_map_ || depth_ != 2) return skip("a text");
    if (!is_plain_name(value)) {
      return refuse("it names the file " + shown(value) + ", which is not in its folder");
    }
    if (out_.size() == kTensorsMax) return refuse("it has too many tensors");
    return out_.emplace(name_, value).second || refuse(shown(name_) + " is there twice");
  }

  bool seen() const { return seen_; }

 private:
  bool skip(const std::string& what) { return !in_map_ || wrong(what); }
  bool deeper() { return ++depth_ <= kIndexDepthMax || refuse("it is nested too deeply"); }
  std::string where() const override { return name_.empty() ? "" : ", at " + shown(name_); }

  std::map<std::string, std::string>& out_;
  std::string name_;
  size_t depth_ = 0;
  bool in_map_ = false;
  bool seen_ = false;
};

Status bad(const std::string& path, const std::string& text) {
  return {Code::kDataLoss, path + " is no valid safetensors file: " + text + "."};
}

Status check_tensor(const SafetensorsTensor& tensor, uint64_t data_bytes, const std::string& path) {
  const std::string name = "tensor " + shown(tensor.info.name);
  uint64_t bytes = 0;
  if (!box_bytes(tensor.info.shape, dtype_bytes(tensor.info.dtype), bytes)) {
    return bad(path, name + " has a shape of too many bytes");
  }
  if (tensor.begin > tensor.end || tensor.end > data_bytes) {
    return bad(path, name + " lies at [" + std::to_string(tensor.begin) + ", " +
                         std::to_string(tensor.end) + "), but the file has " +
                         std::to_string(data_bytes) + " bytes of data");
  }
  if (tensor.end - tensor.begin == bytes) return ok_status();
  return bad(path, name + " has " + std::to_string(tensor.end - tensor.begin) +
                       " bytes, but dtype and shape make " + std::to_string(bytes));
}

// Sorts the tensors, and sees that they cover the data once.
Status check_tensors(SafetensorsHeader& header, const std::string& path) {
  for (const SafetensorsTensor& tensor : header.tensors) {
    CONVOY_RETURN_IF_ERROR(check_tensor(tensor, header.data_bytes, path));
  }
  std::ranges::sort(header.tensors, [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
  });
  uint64_t at = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (tensor.begin != at) {
      return bad(path, std::string(tensor.begin < at ? "tensors overlap" : "nothing lies") +
                           " at " + std::to_string(std::min(at, tensor.begin)) + ", before " +
                           shown(tensor.info.name));
    }
    at = tensor.end;
  }
  if (at == header.data_bytes) return ok_status();
  return bad(path, "its tensors end at byte " + std::to_string(at) + " of " +
                       std::to_string(header.data_bytes) + " of data");
}

bool is_utf8(const std::string& text) {
  const std::string kept = Json(text).dump(-1, ' ', false, Json::error_handler_t::ignore);
  return Json::parse(kept, nullptr, false).get_ref<const std::string&>() == text;
}

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

Status check_to_write(const TensorInfo& info, std::set<std::string_view>& names) {
  const std::string name = "tensor " + shown(info.name);
  if (safetensors_dtype(info.dtype).empty()) {
    return {Code::kInvalidArgument,
            name + " is " + dtype_name(info.dtype) + ", for which safetensors has no word."};
  }
  if (!is_utf8(info.name) || info.name == kMetadataKey) {
    return {Code::kInvalidArgument, name + " has a name that safetensors can't hold."};
  }
  if (names.insert(info.name).second) return ok_status();
  return {Code::kInvalidArgument, name + " is there twice."};
}

std::string entry_text(const TensorInfo& info, uint64_t begin, uint64_t end) {
  std::string shape;
  for (const int64_t size : info.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
  return quoted(info.name) + R"(:{"dtype":")" + std::string(safetensors_dtype(info.dtype)) +
         R"(","shape":[)" + shape + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}

}  // namespace

std::string_view safetensors_dtype(Dtype dtype) {
  const auto* word = std::ranges::find(kWords, dtype, &Word::dtype);
  return word == kWords.end() ? std::string_view() : word->name;
}

std::string safetensors_shard_name(size_t index, size_t count) {
  if (count == 1) return std::string(kSafetensorsSingleName);
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return text.data();
}

bool is_plain_name(std::string_view name) {
  return check_path(name).ok() && name.find('/') == std::string_view::npos && name.front() != '.';
}

Result<uint64_t> safetensors_header_bytes(std::span<const std::byte> first8, uint64_t file_bytes,
                                          const std::string& path) {
  if (file_bytes < kLengthBytes || first8.size() < kLengthBytes) {
    return bad(path, "it has " + std::to_string(file_bytes) + " bytes, too few for a header");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::to_integer<uint64_t>(first8[i]) << (8 * i);
  }
  if (length > kSafetensorsHeaderBytesMax || length > file_bytes - kLengthBytes) {
    return bad(path, "its header would have " + std::to_string(length) + " bytes; the file has " +
                         std::to_string(file_bytes) + ", the format's limit is " +
                         std::to_string(kSafetensorsHeaderBytesMax));
  }
  return kLengthBytes + length;
}

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> bytes,
                                                   uint64_t file_bytes, const std::string& path) {
  CONVOY_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          safetensors_header_bytes(bytes, file_bytes, path));
  if (bytes.size() < header_bytes) return bad(path, "its header is truncated");
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  SafetensorsHeader header;
  HeaderEvents events(header);
  const bool read = Json::sax_parse(begin + kLengthBytes, begin + header_bytes, &events);
  if (!read) return bad(path, events.error());
  header.data_offset = header_bytes;
  header.data_bytes = file_bytes - header_bytes;
  CONVOY_RETURN_IF_ERROR(check_tensors(header, path));
  return header;
}

Result<std::vector<std::byte>> encode_safetensors_header(
    std::span<const TensorInfo> tensors, const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  for (const auto& [key, value] : metadata) {
    text += (text.size() == 1 ? "\"" + std::string(kMetadataKey) + "\":{" : ",") + quoted(key) +
            ":" + quoted(value);
  }
  if (!metadata.empty()) text += "}";
  std::set<std::string_view> names;
  uint64_t at = 0;
  for (const TensorInfo& info : tensors) {
    CONVOY_RETURN_IF_ERROR(check_to_write(info, names));
    const uint64_t bytes = tensor_bytes(info);
    text += (text.size() == 1 ? "" : ",") + entry_text(info, at, at + bytes);
    at += bytes;
  }
  text += "}";
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kSafetensorsHeaderBytesMax) {
    return Status(Code::kInvalidArgument,
                  "the header of a safetensors file would have " + std::to_string(text.size()) +
                      " bytes, more than the format allows; use a smaller --shard-size.");
  }
  std::vector<std::byte> out(kLengthBytes + text.size());
  for (size_t i = 0; i < kLengthBytes; ++i) {
    out[i] = static_cast<std::byte>(uint64_t{text.size()} >> (8 * i));
  }
  std::memcpy(out.data() + kLengthBytes, text.data(), text.size());
  return out;
}

Result<std::map<std::string, std::string>> parse_safetensors_index(std::span<const std::byte> bytes,
                                                                   const std::string& path) {
  std::map<std::string, std::string> out;
  IndexEvents events(out);
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  const bool read = Json::sax_parse(begin, begin + bytes.size(), &events);
  if (read && events.seen()) return out;
  return Status(Code::kDataLoss, path + " is no index of safetensors files: " +
                                     (read ? "it has no weight_map" : events.error()) + ".");
}

}  // namespace convoy::ckpt
