// Safetensors files, the reader of whole tensors and the comparison of steps.
// Method: headers round-trip, and each hostile one is refused for its reason; files are compared
// byte for byte with golden ones that Python's package wrote or has read; tensors that several
// ranks wrote in different layouts are compared with their definition, window by window;
// conversions with a search for the nearest value. Kills and the command line are
// tests/cli/ckpt_test.py's. Does not check tensors of more bytes than one window of the export (the
// reader's windows are).
#include "ckpt/formats/convert.h"
#include "ckpt/formats/tensor_reader.h"
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/small_model.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/compare.h>
#include <convoy/ckpt/safetensors.h>

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

namespace convoy::ckpt {
namespace {

using Catch::Matchers::Contains;

std::vector<std::byte> with_length(const std::string& json) {
  std::vector<std::byte> bytes(8);
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(json.size() >> (8 * i));
  const auto text = bytes_of(json);
  bytes.insert(bytes.end(), text.begin(), text.end());
  return bytes;
}

Result<SafetensorsHeader> parse(const std::string& json, uint64_t data_bytes) {
  const auto bytes = with_length(json);
  return parse_safetensors_header(bytes, bytes.size() + data_bytes, "file");
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape +
         R"(],"data_offsets":[)" + offsets + "]}";
}

void spill(const std::string& path, const std::vector<std::byte>& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

// A folder in memory with step 10 of the model.
struct Saved {
  MemoryStore store;
  Catalog catalog{store};
  SmallModel model;
  explicit Saved(SmallModel m, uint64_t step = 10) : model(m) {
    REQUIRE(catalog.take_over({"job", 1, "test"}).ok());
    const Status status = save_small_model(model, catalog, store, step);
    INFO(status.to_string());
    REQUIRE(status.ok());
  }
  Commit commit(uint64_t step = 10) { return *catalog.load_commit(step); }
};

// The first file of chunks whose name holds `part`.
std::string data_file(Store& store, const std::string& part) {
  const auto entries = store.list("data/");
  for (const StoreEntry& one : *entries) {
    if (one.path.ends_with(".chunks") && one.path.find(part) != std::string::npos) return one.path;
  }
  return "";
}

void flip(Store& store, const std::string& path, size_t at) {
  auto bytes = *store.get(path, 1 << 30);
  bytes[at] ^= std::byte{1};
  REQUIRE(store.put(path, bytes).ok());
}

TEST_CASE("headers come back as they were written, and tensors are aligned") {
  const std::vector<TensorInfo> tensors = {{"w", Dtype::kFloat32, {2, 3}},
                                           {"scalar", Dtype::kInt32, {}},
                                           {"ünïcödé \"quoted\"\n", Dtype::kBFloat16, {5}},
                                           {"empty", Dtype::kUInt8, {0, 7}},
                                           {"flags", Dtype::kBool, {3}}};
  const auto bytes = encode_safetensors_header(tensors, {{"format", "pt"}});
  REQUIRE(bytes.ok());
  REQUIRE(bytes->size() % 8 == 0);
  const auto header = parse_safetensors_header(*bytes, bytes->size() + 41, "file");
  INFO(header.status().to_string());
  REQUIRE(header.ok());
  REQUIRE(header->data_bytes == 41);
  REQUIRE(header->metadata.at("format") == "pt");
  REQUIRE(header->tensors.size() == 5);
  for (const SafetensorsTensor& tensor : header->tensors) {
    REQUIRE(std::ranges::find(tensors, tensor.info) != tensors.end());
    REQUIRE(tensor.begin % dtype_bytes(tensor.info.dtype) == 0);
  }
  REQUIRE(parse("{}", 0).ok());
}

TEST_CASE("what can't be written is refused") {
  const auto message = [](std::vector<TensorInfo> tensors) {
    return encode_safetensors_header(tensors, {}).status().message();
  };
  REQUIRE_THAT(message({{"a", Dtype::kBytes, {3}}}), Contains("is bytes"));
  REQUIRE_THAT(message({{"a", Dtype::kComplex128, {3}}}), Contains("is complex128"));
  REQUIRE_THAT(message({{"\xff", Dtype::kInt8, {3}}}), Contains("can't hold"));
  REQUIRE_THAT(message({{"__metadata__", Dtype::kInt8, {3}}}), Contains("can't hold"));
  REQUIRE_THAT(message({{"a", Dtype::kInt8, {3}}, {"a", Dtype::kInt8, {3}}}), Contains("twice"));
}

TEST_CASE("hostile headers are refused, each for its reason") {
  const std::string good = entry("a", "F32", "2", "0,8");
  REQUIRE(parse("{" + good + "}  ", 8).ok());
  const std::vector<std::tuple<std::string, uint64_t, std::string>> cases = {
      {"", 0, "no valid JSON"},
      {"[]", 0, "a list stands where none may"},
      {"7", 0, "a number stands where none may"},
      {"{" + good, 8, "no valid JSON"},
      {"{" + good + "}{}", 8, "no valid JSON"},
      {"{" + good + "," + good + "}", 8, "\"a\" is there twice"},
      {"{" + good + "}", 9, "end at byte 8 of 9"},
      {"{" + good + "}", 7, "the file has 7 bytes of data"},
      {"{" + entry("a", "F32", "3", "0,8") + "}", 8, "dtype and shape make 12"},
      {"{" + entry("a", "F16", "2", "0,8") + "}", 8, "dtype and shape make 4"},
      {"{" + entry("a", "Q4", "2", "0,8") + "}", 8, "dtype \"Q4\""},
      {"{" + entry("a", "F32", "-2", "0,8") + "}", 8, "a negative number"},
      {"{" + entry("a", "F32", "2.5", "0,8") + "}", 8, "not a whole one"},
      {"{" + entry("a", "F32", "99999999999999999999999", "0,8") + "}", 8, "too large"},
      {"{" + entry("a", "F32", "9223372036854775807", "0,8") + "}", 8, "huge"},
      {"{" + entry("a", "F32", "4294967296,4294967296,4294967296", "0,8") + "}", 8,
       "too many bytes"},
      {"{" + entry("a", "F32", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2", "0,8") + "}", 8,
       "more than 16 dimensions"},
      {"{" + entry("a", "F32", "[2]", "0,8") + "}", 8, "a list stands"},
      {"{" + entry("a", "F32", "2", "8,0") + "}", 8, "lies at [8, 0)"},
      {"{" + entry("a", "F32", "2", "0") + "}", 8, "two data_offsets"},
      {"{" + entry("a", "F32", "2", "0,8,8") + "}", 8, "more than two data_offsets"},
      {"{" + entry("a", "F32", "2", "0,8") + "," + entry("b", "F32", "2", "4,12") + "}", 12,
       "tensors overlap at 4"},
      {"{" + entry("a", "F32", "2", "0,8") + "," + entry("b", "F32", "2", "12,20") + "}", 20,
       "nothing lies at 8"},
      {"{" + entry("a", "F32", "2", "18446744073709551608,0") + "}", 8, "lies at"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "lacks dtype, shape or data_offsets"},
      {R"({"a":{"dtype":"F32","dtype":"F32"}})", 8, "two dtype"},
      {R"({"a":{"dtype":"F32","more":1}})", 8, "field \"more\""},
      {R"({"a":{"dtype":["F32"]}})", 8, "a list stands"},
      {R"({"a":{"shape":"F32"}})", 8, "a text stands"},
      {R"({"a":{"shape":{}}})", 8, "an object stands"},
      {R"({"a":null})", 8, "null stands where none may, at \"a\""},
      {R"({"a":[]})", 8, "a list stands"},
      {R"({"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "is empty"},
      {R"({"a\u0000b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, "has a NUL"},
      {R"({"__metadata__":{"a":1}})", 0, "a number stands"},
      {R"({"__metadata__":{"a":{}}})", 0, "an object stands"},
      {R"({"__metadata__":{"a":"b","a":"c"}})", 0, "is there twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "is there twice"}};
  for (const auto& [json, data_bytes, reason] : cases) {
    const auto header = parse(json, data_bytes);
    INFO(json);
    REQUIRE(header.status().code() == Code::kDataLoss);
    REQUIRE_THAT(header.status().message(), Contains(reason));
  }
  std::string deep(1 << 20, '[');
  REQUIRE_FALSE(parse(deep, 0).ok());
  REQUIRE_FALSE(parse("{\"a\":" + deep, 0).ok());
}

TEST_CASE("a length that can't be is refused before it is believed") {
  std::vector<std::byte> bytes(8, std::byte{0xff});
  REQUIRE_THAT(safetensors_header_bytes(bytes, 1000, "file").status().message(),
               Contains("18446744073709551615 bytes; the file has 1000"));
  REQUIRE_FALSE(safetensors_header_bytes(std::span(bytes).first(7), 7, "file").ok());
  const auto long_one = with_length(std::string(200, ' '));
  REQUIRE_FALSE(safetensors_header_bytes(long_one, 207, "file").ok());
  REQUIRE(*safetensors_header_bytes(long_one, 208, "file") == 208);
  REQUIRE_THAT(parse_safetensors_header(std::span(long_one).first(20), 208, "f").status().message(),
               Contains("truncated"));
}

TEST_CASE("an index may only name files beside it") {
  const auto read = [](const std::string& text) {
    return parse_safetensors_index(bytes_of(text), "index");
  };
  const auto index = read(
      R"({"metadata":{"total_size":12,"x":[1,{"a":null}]},"weight_map":{"a":"m.safetensors"}})");
  INFO(index.status().to_string());
  REQUIRE(index.ok());
  REQUIRE(index->at("a") == "m.safetensors");
  for (const char* text :
       {"", "{}", "[]", R"({"weight_map":7})", R"({"weight_map":{"a":7}})",
        R"({"weight_map":{"a":["b"]}})", R"({"weight_map":{"a":{"b":"c"}}})",
        R"({"weight_map":{"a":"../x"}})", R"({"weight_map":{"a":"/etc/passwd"}})",
        R"({"weight_map":{"a":"b/c"}})", R"({"weight_map":{"a":""}})",
        R"({"weight_map":{"a":"."}})", R"({"weight_map":{"a":".x"}})",
        R"({"weight_map":{"a":"b","a":"c"}})", R"({"weight_map":{},"weight_map":{}})"}) {
    INFO(text);
    REQUIRE(read(text).status().code() == Code::kDataLoss);
  }
  REQUIRE_FALSE(read("{\"x\":" + std::string(1 << 20, '[')).ok());
}

TEST_CASE("runs of a box are those that a plain loop finds") {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const size_t dims = random() % 5;
    std::vector<int64_t> shape;
    std::vector<int64_t> begin;
    std::vector<int64_t> extent;
    int64_t total = 1;
    int64_t in_box = 1;
    for (size_t d = 0; d < dims; ++d) {
      shape.push_back(1 + random() % 5);
      begin.push_back(random() % shape[d]);
      extent.push_back(1 + random() % (shape[d] - begin[d]));
      total *= shape[d];
      in_box *= extent[d];
    }
    const int64_t from = random() % total;
    const int64_t to = from + 1 + random() % (total - from);
    std::vector<int64_t> wanted(total, -1);  // element of the box, by element of the tensor
    for (int64_t i = 0; i < in_box; ++i) {
      int64_t rest = i;
      int64_t at = 0;
      int64_t stride = 1;
      for (size_t d = dims; d-- > 0;) {
        at += (begin[d] + rest % extent[d]) * stride;
        rest /= extent[d];
        stride *= shape[d];
      }
      if (at >= from && at < to) wanted[at] = i;
    }
    std::vector<int64_t> found(total, -1);
    for_each_run(shape, begin, extent, from, to, [&](int64_t piece, int64_t tensor, int64_t n) {
      REQUIRE(n > 0);
      for (int64_t i = 0; i < n; ++i) {
        REQUIRE(found.at(tensor + i) == -1);
        found[tensor + i] = piece + i;
      }
    });
    REQUIRE(found == wanted);
  }
}

// The encoding of a 16-bit type that lies nearest to `value`, ties to an even one, by search.
uint16_t nearest(Dtype dtype, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = dtype == Dtype::kFloat16 ? 0x7c00 : 0x7f80;
  const auto load = [&](uint32_t bits) {
    const auto small = static_cast<uint16_t>(bits);
    if (bits < infinity) return load_float(dtype, reinterpret_cast<const std::byte*>(&small));
    // What would follow the largest number.
    return dtype == Dtype::kFloat16 ? std::ldexp(1.0, 16) : std::ldexp(1.0, 128);
  };
  const double size = std::fabs(value);
  uint32_t low = 0;
  uint32_t high = infinity;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (load(middle) <= size ? low : high) = middle;
  }
  const double below = size - load(low);
  const double above = load(high) - size;
  const uint32_t bits = below < above || (below == above && low % 2 == 0) ? low : high;
  return static_cast<uint16_t>(sign | bits);
}

TEST_CASE("float types convert to the nearest value") {
  std::mt19937_64 random(3);
  for (const Dtype to : {Dtype::kFloat16, Dtype::kBFloat16}) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {  // exact values stay
      const auto in = static_cast<uint16_t>(bits);
      uint16_t out = 0;
      convert(to, std::as_bytes(std::span(&in, 1)), to, std::as_writable_bytes(std::span(&out, 1)));
      const double value = load_float(to, reinterpret_cast<const std::byte*>(&in));
      if (std::isnan(value)) {
        REQUIRE(std::isnan(load_float(to, reinterpret_cast<const std::byte*>(&out))));
      } else {
        REQUIRE(out == in);
      }
    }
    for (int i = 0; i < 20000; ++i) {
      // Half of them near a boundary between two values.
      const double whole = std::ldexp(static_cast<double>(random() % 8192) / 4, random() % 60 - 35);
      const double value = (i % 2 == 0 ? whole : whole * (1 + 1e-7)) * (i % 3 == 0 ? -1 : 1);
      const auto narrow = static_cast<float>(value);
      uint16_t out = 0;
      convert(Dtype::kFloat64, std::as_bytes(std::span(&value, 1)), to,
              std::as_writable_bytes(std::span(&out, 1)));
      INFO(value);
      REQUIRE(out == nearest(to, value));
      convert(Dtype::kFloat32, std::as_bytes(std::span(&narrow, 1)), to,
              std::as_writable_bytes(std::span(&out, 1)));
      REQUIRE(out == nearest(to, static_cast<double>(narrow)));
    }
  }
  const auto f8 = [](Dtype dtype, uint8_t bits) {
    return load_float(dtype, reinterpret_cast<const std::byte*>(&bits));
  };
  REQUIRE(f8(Dtype::kFloat8E4M3, 0x7e) == 448);
  REQUIRE(std::isnan(f8(Dtype::kFloat8E4M3, 0x7f)));
  REQUIRE(f8(Dtype::kFloat8E4M3, 0x01) == std::ldexp(1, -9));
  REQUIRE(f8(Dtype::kFloat8E5M2, 0x7b) == 57344);
  REQUIRE(std::isinf(f8(Dtype::kFloat8E5M2, 0x7c)));
  REQUIRE(f8(Dtype::kFloat8E5M2, 0xbc) == -1);
}

TEST_CASE("tensors are put together from any layout, window by window") {
  std::mt19937 random(11);
  for (const int cut : {0, 1}) {
    for (const bool replicas : {false, true}) {
      SmallModel model;
      model.cut = cut;
      model.replicas = replicas;
      model.ranks = 3;
      model.width = 24;
      model.chunk_bytes = 256;
      model.compress = cut == 1;
      Saved saved(model);
      const Commit commit = saved.commit();
      TensorReader reader(saved.store, commit);
      for (const TensorEntry& tensor : commit.tensors) {
        const auto wanted = small_model_content(model, tensor.info, 10);
        const size_t element = dtype_bytes(tensor.info.dtype);
        std::vector<std::byte> whole(wanted.size());
        REQUIRE(reader.read(tensor, 0, whole).ok());
        REQUIRE(whole == wanted);
        for (int i = 0; i < 5 && !wanted.empty(); ++i) {
          const size_t first = random() % (wanted.size() / element);
          const size_t n = 1 + random() % (wanted.size() / element - first);
          std::vector<std::byte> window(n * element);
          REQUIRE(reader.read(tensor, static_cast<int64_t>(first), window).ok());
          REQUIRE(std::equal(window.begin(), window.end(), wanted.begin() + first * element));
        }
      }
    }
  }
}

TEST_CASE("a bad chunk is healed from a replica, or named") {
  SmallModel model;
  model.replicas = true;
  Saved replicated(model);
  flip(replicated.store, data_file(replicated.store, "n00000"), 100);
  const Commit commit = replicated.commit();
  TensorReader reader(replicated.store, commit);
  const TensorEntry& embed = commit.tensors[0];
  REQUIRE(embed.info.name == "model.embed.weight");
  std::vector<std::byte> whole(tensor_bytes(embed.info));
  REQUIRE(reader.read(embed, 0, whole).ok());
  REQUIRE(whole == small_model_content(model, embed.info, 10));

  Saved single(SmallModel{});
  flip(single.store, data_file(single.store, "n00001"), 100);
  const Commit alone = single.commit();
  TensorReader other(single.store, alone);
  const Status status = other.read(alone.tensors[0], 0, whole);
  REQUIRE(status.code() == Code::kDataLoss);
  REQUIRE_THAT(status.message(), Contains("tensor model.embed.weight: chunk 0 of rank 2"));

  // A node's part is gone.
  for (const PartRef& ref : alone.parts) {
    if (ref.node == 0) REQUIRE(single.store.remove(ref.path).ok());
  }
  TensorReader third(single.store, alone);
  REQUIRE_THAT(third.read(alone.tensors[0], 0, whole).message(),
               Contains("tensor model.embed.weight: "));
}

TEST_CASE("an exported step can be imported, and is the same") {
  TempFolder folder;
  SmallModel model;
  model.cut = 1;
  Saved saved(model);
  SafetensorsExport options;
  options.folder = folder / "out";
  options.shard_bytes = 40'000;
  options.want = [](const std::string& name) { return name.find("rng.3") == std::string::npos; };
  const auto exported = export_safetensors(saved.store, saved.commit(), options);
  INFO(exported.status().to_string());
  REQUIRE(exported.ok());
  REQUIRE(exported->files.size() > 1);
  REQUIRE(exported->left_out.size() == 3);
  REQUIRE(exported->tensors == 7);
  REQUIRE_FALSE(std::filesystem::exists(folder / "out.partial"));
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).status().code() ==
          Code::kInvalidArgument);

  MemoryStore store;
  Catalog catalog(store);
  REQUIRE(catalog.take_over({"import", 0, "test"}).ok());
  const auto source = open_safetensors(folder / "out");
  INFO(source.status().to_string());
  REQUIRE(source.ok());
  REQUIRE((*source)->tensors().size() == 7);
  const Status imported = import_step(**source, store, catalog, 77);
  INFO(imported.to_string());
  REQUIRE(imported.ok());
  REQUIRE(catalog.verify(77)->ok());
  const auto comparison =
      compare_steps(saved.store, saved.commit(), store, *catalog.load_commit(77));
  REQUIRE(comparison.ok());
  REQUIRE(comparison->equal == 7);
  REQUIRE(comparison->differences.size() == 4);  // what safetensors can't hold
  for (const auto& one : comparison->differences) {
    REQUIRE(one.kind == DifferenceKind::kOnlyInA);
    REQUIRE(one.a.name.starts_with("rng."));
  }
}

TEST_CASE("an export converts float tensors only") {
  TempFolder folder;
  SmallModel model;
  Saved saved(model);
  SafetensorsExport options;
  options.folder = folder / "out";
  options.dtype = Dtype::kBFloat16;
  options.want = [](const std::string& name) { return !name.starts_with("rng"); };
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).ok());
  const auto bytes = read_file(folder / "out/model.safetensors");
  const auto header = parse_safetensors_header(bytes, bytes.size(), "file");
  REQUIRE(header.ok());
  for (const SafetensorsTensor& tensor : header->tensors) {
    const bool is_step = tensor.info.name == "optimizer.step";
    REQUIRE(tensor.info.dtype == (is_step ? Dtype::kInt64 : Dtype::kBFloat16));
    for (TensorInfo& info : small_model_tensors(model)) {
      if (info.name != tensor.info.name) continue;
      const auto wanted = small_model_content(model, info, 10);
      const size_t n = wanted.size() / dtype_bytes(info.dtype);
      for (size_t i = 0; i < n && !is_step; ++i) {  // its values are exact in any type
        REQUIRE(load_float(info.dtype, wanted.data() + i * dtype_bytes(info.dtype)) ==
                load_float(Dtype::kBFloat16,
                           bytes.data() + header->data_offset + tensor.begin + i * 2));
      }
    }
  }
  options.folder = folder / "other";
  options.dtype = Dtype::kInt8;
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).status().code() ==
          Code::kInvalidArgument);
  options.dtype.reset();
  options.want = [](const std::string&) { return false; };
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).status().code() ==
          Code::kInvalidArgument);
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("a damaged step is not exported, and nothing is left") {
  TempFolder folder;
  Saved saved(SmallModel{});
  flip(saved.store, data_file(saved.store, "n00001"), 5000);
  SafetensorsExport options;
  options.folder = folder / "out";
  const auto exported = export_safetensors(saved.store, saved.commit(), options);
  REQUIRE(exported.status().code() == Code::kDataLoss);
  REQUIRE_THAT(exported.status().message(), Contains("does not match its checksum"));
  REQUIRE(folder.entries() == 0);
}

TEST_CASE("the work folder of an export is cleared of our files only") {
  TempFolder folder;
  Saved saved(SmallModel{});
  SafetensorsExport options;
  options.folder = folder / "out";
  std::filesystem::create_directories(folder / "out.partial");
  spill(folder / "out.partial/model-00001-of-00009.safetensors", bytes_of("old"));
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).ok());
  REQUIRE_FALSE(std::filesystem::exists(folder / "out/model-00001-of-00009.safetensors"));
  options.folder = folder / "more";
  std::filesystem::create_directories(folder / "more.partial");
  spill(folder / "more.partial/thesis.txt", bytes_of("mine"));
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).status().code() ==
          Code::kInvalidArgument);
  REQUIRE(std::filesystem::exists(folder / "more.partial/thesis.txt"));
}

TEST_CASE("sources that don't fit together are refused") {
  TempFolder folder;
  const auto one = [](const std::string& name) {
    auto bytes = with_length("{" + entry(name, "U8", "4", "0,4") + "}");
    bytes.resize(bytes.size() + 4);
    return bytes;
  };
  const auto message = [](const std::string& path) {
    return open_safetensors(path).status().message();
  };
  REQUIRE(open_safetensors(folder / "none").status().code() == Code::kNotFound);
  REQUIRE(open_safetensors(folder.path()).status().code() == Code::kNotFound);
  spill(folder / "a.safetensors", one("a"));
  REQUIRE(open_safetensors(folder.path()).ok());
  spill(folder / "b.safetensors", one("b"));
  REQUIRE_THAT(message(folder.path()), Contains("holds 2 safetensors files"));
  const std::string index = folder / "model.safetensors.index.json";
  const auto map = [&](const std::string& entries) {
    spill(index, bytes_of("{\"weight_map\":{" + entries + "}}"));
  };
  map(R"("a":"a.safetensors","b":"b.safetensors")");
  REQUIRE(open_safetensors(folder.path()).value()->tensors().size() == 2);
  REQUIRE(open_safetensors(index).value()->tensors().size() == 2);
  map(R"("a":"a.safetensors","b":"b.safetensors","c":"b.safetensors")");
  REQUIRE_THAT(message(folder.path()), Contains("names 3 tensors, but its files hold 2"));
  map(R"("a":"b.safetensors","b":"b.safetensors")");
  REQUIRE_FALSE(message(folder.path()).empty());
  map(R"("b":"a.safetensors")");
  REQUIRE_THAT(message(folder.path()), Contains("does not say that tensor a lies in"));
  map(R"("a":"c.safetensors")");
  REQUIRE(open_safetensors(folder.path()).status().code() == Code::kNotFound);
  spill(folder / "c.safetensors", one("a"));
  map(R"("a":"a.safetensors","x":"c.safetensors")");
  REQUIRE_FALSE(message(folder.path()).empty());
}

TEST_CASE("files of Python's safetensors package are read, and ours are as it read them") {
  const std::string golden = CONVOY_CKPT_TESTS;
  // tests/ckpt/golden_safetensors.py made them.
  const auto theirs = read_file(golden + "/golden_python.safetensors");
  const auto header = parse_safetensors_header(theirs, theirs.size(), "golden");
  INFO(header.status().to_string());
  REQUIRE(header.ok());
  REQUIRE(header->metadata.at("format") == "pt");
  std::map<std::string, SafetensorsTensor> tensors;
  for (const auto& tensor : header->tensors) tensors.emplace(tensor.info.name, tensor);
  REQUIRE(tensors.size() == 5);
  REQUIRE(tensors.at("w").info == TensorInfo{"w", Dtype::kFloat32, {2, 3}});
  REQUIRE(tensors.at("half").info == TensorInfo{"half", Dtype::kFloat16, {3}});
  REQUIRE(tensors.at("scalar").info == TensorInfo{"scalar", Dtype::kInt64, {}});
  REQUIRE(tensors.at("empty").info == TensorInfo{"empty", Dtype::kUInt8, {0, 4}});
  REQUIRE(tensors.at("flags").info == TensorInfo{"flags", Dtype::kBool, {2}});
  for (int i = 0; i < 6; ++i) {
    const std::byte* at = theirs.data() + header->data_offset + tensors.at("w").begin + i * 4;
    REQUIRE(load_float(Dtype::kFloat32, at) == i * 0.5);
  }

  TempFolder folder;
  SmallModel model;
  model.width = 8;
  Saved saved(model);
  SafetensorsExport options;
  options.folder = folder / "out";
  options.want = [](const std::string& name) { return !name.starts_with("rng"); };
  REQUIRE(export_safetensors(saved.store, saved.commit(), options).ok());
  REQUIRE(read_file(folder / "out/model.safetensors") ==
          read_file(golden + "/golden_convoy.safetensors"));
}

TEST_CASE("differences are counted, element by element") {
  SmallModel model;
  model.freeze = 1000;
  Saved saved(model);
  REQUIRE(save_small_model(model, saved.catalog, saved.store, 20).ok());
  const Commit a = saved.commit(10);
  const Commit b = saved.commit(20);
  const auto same = compare_steps(saved.store, a, saved.store, a);
  REQUIRE(same.ok());
  REQUIRE(same->equal == a.tensors.size());
  REQUIRE(same->by_checksum == a.tensors.size());
  REQUIRE(same->bytes_read == 0);

  const auto result = compare_steps(saved.store, a, saved.store, b);
  REQUIRE(result.ok());
  for (const TensorDifference& one : result->differences) {
    REQUIRE(one.kind == DifferenceKind::kContent);
    REQUIRE(one.a.name.find("layers.0") == std::string::npos);
    const auto x = small_model_content(model, one.a, 10);
    const auto y = small_model_content(model, one.a, 20);
    const size_t element = dtype_bytes(one.a.dtype);
    uint64_t differing = 0;
    double max_abs = 0;
    for (size_t at = 0; at < x.size(); at += element) {
      if (std::equal(x.begin() + at, x.begin() + at + element, y.begin() + at)) continue;
      ++differing;
      if (is_float(one.a.dtype)) {
        max_abs = std::max(max_abs, std::fabs(load_float(one.a.dtype, x.data() + at) -
                                              load_float(one.a.dtype, y.data() + at)));
      }
    }
    REQUIRE(one.differing == differing);
    REQUIRE(one.max_abs == max_abs);
  }
  REQUIRE(result->equal == 3);  // two of the frozen layer, and the empty one

  // Another layout of the same content is equal, by reading.
  SmallModel other = model;
  other.cut = 1;
  Saved moved(other);
  const auto across = compare_steps(saved.store, a, moved.store, moved.commit());
  REQUIRE(across.ok());
  REQUIRE(across->differences.empty());
  REQUIRE(across->bytes_read > 0);

  flip(moved.store, data_file(moved.store, "n00000"), 10);
  const auto damaged = compare_steps(saved.store, a, moved.store, moved.commit());
  REQUIRE(damaged.ok());
  REQUIRE(std::ranges::any_of(damaged->differences, [](const TensorDifference& one) {
    return one.kind == DifferenceKind::kDamaged && one.a.name == "model.embed.weight";
  }));
}

}  // namespace
}  // namespace convoy::ckpt
