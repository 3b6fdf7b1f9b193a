// Method: a step is exported as torch.save() and DCP write, imported again, and compared bit for
// bit; good files are spoilt at random and must never be read out of bounds (the sanitizers look
// on) nor accepted where they lie. That PyTorch itself reads and writes these files is checked by
// tests/python/checkpoint_formats.py.
#include "ckpt/formats/torch_write.h"
#include "tests/ckpt/torch_readers.h"
#include "tests/ckpt/torch_samples.h"
#include <convoy/ckpt/compare.h>
#include <convoy/ckpt/import.h>

#include <catch2/catch.hpp>

#include <limits>
#include <random>

namespace convoy::ckpt {
namespace {

Commit imported(ImportSource& source, MemoryStore& store) {
  Catalog catalog(store);
  REQUIRE(catalog.take_over({"import", 0, "test"}).ok());
  const Status status = import_step(source, store, catalog, 9);
  INFO(status.to_string());
  REQUIRE(status.ok());
  REQUIRE(catalog.verify(9)->ok());
  return *catalog.load_commit(9);
}

TEST_CASE("a step survives both formats") {
  TempFolder folder;
  MemoryStore store;
  Catalog catalog(store);
  REQUIRE(catalog.take_over({"job", 0, "test"}).ok());
  SmallModel model;
  model.cut = 1;
  REQUIRE(save_small_model(model, catalog, store, 3).ok());
  const Commit commit = *catalog.latest();
  const auto want = [](const std::string& name) { return !name.starts_with("rng."); };
  const auto torch = export_torch(store, commit, {folder / "x.pt", want});
  INFO(torch.status().to_string());
  REQUIRE(torch.ok());
  REQUIRE(export_torch(store, commit, {folder / "x.pt", want}).status().code() ==
          Code::kInvalidArgument);
  const auto dcp = export_dcp(store, commit, {folder / "dcp", want});
  INFO(dcp.status().to_string());
  REQUIRE(dcp.ok());
  REQUIRE(folder.entries() == 2);
  for (const bool is_dcp : {false, true}) {
    auto source = is_dcp ? open_dcp_folder(folder / "dcp") : open_torch_file(folder / "x.pt");
    INFO(source.status().to_string());
    REQUIRE(source.ok());
    MemoryStore other;
    const Commit copy = imported(**source, other);
    const auto comparison = compare_steps(store, commit, other, copy, want);
    REQUIRE(comparison.ok());
    CHECK(comparison->equal == torch->tensors);
    for (const auto& one : comparison->differences) CHECK(one.b.name == kPathsName);
  }
}

TEST_CASE("pickled values come back as they were") {
  const nlohmann::json value = nlohmann::json::parse(
      R"({"i": [0, 255, 256, -1, -2147483649, 9223372036854775807], "big": {"$int": "-0x123456789abcdef01"}, "f": [0.1, -0.0, {"$float": "inf"}],
          "t": {"$tuple": [true, null, "text ü"]}, "b": {"$bytes": "AP9w"}, "d": {"$dict": [[1, "x"], ["$k", {}]]}, "l": []})");
  PickleWriter writer;
  REQUIRE(writer.value(value).ok());
  const std::string text = std::move(writer).finish();
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  const auto pickle = parse_pickle({data, data + text.size()}, "test");
  REQUIRE(pickle.ok());
  const auto back = torch_value(*pickle, pickle->root(), "test");
  REQUIRE(back.ok());
  nlohmann::json got = nlohmann::json::parse(back->substr(kValueMark.size()));
  // Leading zeros are nobody's business.
  CHECK(got["big"]["$int"].get<std::string>().find("123456789abcdef01") != std::string::npos);
  got["big"] = value["big"];
  CHECK(got == value);
  PickleWriter other;
  CHECK(!other.value(nlohmann::json::parse(R"({"$bytes": "?"})")).ok());
  CHECK(!other.value(nlohmann::json::parse(R"({"$int": "x"})")).ok());
}

TEST_CASE("what pickles could execute is refused by name") {
  const auto said = [](std::string_view text) {
    const auto* data = reinterpret_cast<const std::byte*>(text.data());
    return parse_pickle({data, data + text.size()}, "x.pt").status();
  };
  using namespace std::string_view_literals;
  CHECK(said("\x80\2cposix\nsystem\nX\4\0\0\0true\x85R."sv).message().find("posix.system") !=
        std::string::npos);
  CHECK(said("\x80\4\x8c\2os\x8c\6system\x93."sv).code() == Code::kInvalidArgument);
  CHECK(said("\x80\2ctorch\nload\n."sv).code() == Code::kInvalidArgument);
  CHECK(said("\x80\2ctorch\nfloat32.__class__\n."sv).code() == Code::kInvalidArgument);
  CHECK(said("\x80\2P1\n."sv).message().find("opcode") != std::string::npos);
  CHECK(said("\x80\2N"sv).code() == Code::kDataLoss);
  CHECK(said("\x80\2NN."sv).code() == Code::kDataLoss);
  CHECK(said("\x80\2(N."sv).code() == Code::kOk);
  CHECK(said(""sv).code() == Code::kDataLoss);
}

TEST_CASE("spoilt files are refused or harmless") {
  const TorchSamples samples = make_torch_samples();
  REQUIRE(!samples.pickle.empty());
  read_zip(samples.zip);
  read_pickle(samples.pickle);
  read_metadata(samples.metadata);
  std::mt19937 random(3);
  const auto spoil = [&](std::vector<std::byte> bytes) {
    for (int n = 1 + random() % 4; n > 0; --n) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<std::byte>(random());
          break;
        case 1:
          bytes[at] ^= static_cast<std::byte>(1U << random() % 8);
          break;
        case 2:
          bytes.erase(
              bytes.begin() + static_cast<ptrdiff_t>(at),
              bytes.begin() + static_cast<ptrdiff_t>(std::min(bytes.size(), at + random() % 9)));
          break;
        default:
          bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.begin(),
                       bytes.begin() + static_cast<ptrdiff_t>(random() % 9));
      }
      if (bytes.empty()) bytes.push_back({});
    }
    return bytes;
  };
  for (int i = 0; i < 3000; ++i) {
    read_pickle(spoil(samples.pickle));
    read_metadata(spoil(samples.metadata));
    read_zip(spoil(samples.zip));
  }
}

}  // namespace
}  // namespace convoy::ckpt
