// Records: random ones come back equal; golden files of version 1 stay readable and are written
// alike; every truncation and every flipped bit is refused; messages made by hand, with a right
// checksum, break one rule each; random damage under a right checksum is refused or harmless.
// Fuzzing is fuzz_records.cc's.
#include "ckpt/manifest/frame.h"
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/random_records.h"

#include <catch2/catch.hpp>

#include <fstream>
#include <functional>

namespace convoy::ckpt {
namespace {

using Bytes = std::vector<std::byte>;

std::string golden(const std::string& name) {
  return std::string(CONVOY_CKPT_TESTS) + "/golden_v1." + name;
}

// Protobuf's wire, by hand.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string field(uint32_t number, uint64_t value) {
  return varint(number << 3) + varint(value);
}
std::string field(uint32_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string packed(uint32_t number, const std::vector<uint64_t>& values) {
  std::string bytes;
  for (const uint64_t value : values) bytes += varint(value);
  return field(number, bytes);
}

std::string part_failure(const std::string& payload) {
  const auto part = decode_part(wrap(RecordKind::kPart, kFormatVersion, bytes_of(payload)), "p");
  if (part.ok()) return "";
  REQUIRE(part.status().code() == Code::kDataLoss);
  return part.status().message();
}

TEST_CASE("random records come back equal, in equal bytes") {
  constexpr uint32_t kSeed = 20261125;
  std::mt19937 random(kSeed);
  for (int i = 0; i < 500; ++i) {
    CAPTURE(kSeed, i);
    const Part part = random_part(random);
    const auto part_bytes = encode(part);
    REQUIRE(part_bytes.ok());
    REQUIRE(*decode_part(*part_bytes, "p") == part);
    const Commit commit = random_commit(random);
    const auto commit_bytes = encode(commit);
    REQUIRE(commit_bytes.ok());
    REQUIRE(*decode_commit(*commit_bytes, "c") == commit);
    const Owner owner = random_owner(random);
    const auto owner_bytes = encode(owner);
    REQUIRE(owner_bytes.ok());
    REQUIRE(*decode_owner(*owner_bytes, "o") == owner);
    REQUIRE(*encode(*decode_part(*part_bytes, "p")) == *part_bytes);
  }
}

// Run once for a version: test_ckpt_records "[.write-golden]".
TEST_CASE("golden files are written", "[.write-golden]") {
  const auto spill = [](const std::string& path, const Bytes& bytes) {
    std::ofstream(path, std::ios::binary) << text_of(bytes);
  };
  spill(golden("part"), *encode(golden_part()));
  spill(golden("commit"), *encode(golden_commit()));
  spill(golden("owner"), *encode(golden_owner()));
}

TEST_CASE("the golden files of version 1 are read, and written alike") {
  const Bytes part = read_file(golden("part"));
  const Bytes commit = read_file(golden("commit"));
  const Bytes owner = read_file(golden("owner"));
  REQUIRE(*decode_part(part, "p") == golden_part());
  REQUIRE(*decode_commit(commit, "c") == golden_commit());
  REQUIRE(*decode_owner(owner, "o") == golden_owner());
  REQUIRE(*encode(golden_part()) == part);
  REQUIRE(*encode(golden_commit()) == commit);
  REQUIRE(*encode(golden_owner()) == owner);
}

TEST_CASE("every truncation and every flipped bit is refused") {
  const Bytes good = *encode(golden_part());
  for (size_t n = 0; n < good.size(); ++n) {
    REQUIRE(decode_part(std::span(good).first(n), "p").status().code() == Code::kDataLoss);
  }
  for (size_t i = 0; i < good.size() * 8; ++i) {
    Bytes bytes = good;
    bytes[i / 8] ^= static_cast<std::byte>(1U << i % 8);
    REQUIRE(decode_part(bytes, "p").status().code() == Code::kDataLoss);
  }
  Bytes longer = good;
  longer.push_back({});
  REQUIRE(decode_part(longer, "p").status().code() == Code::kDataLoss);
  REQUIRE(decode_commit(good, "p").status().message() ==
          "commit record p is damaged: it is a record of kind 1. Load another step, or this one "
          "from another tier.");
}

TEST_CASE("a record of a newer version is told from a damaged one") {
  const auto newer = decode_commit(wrap(RecordKind::kCommit, kFormatVersion + 1, {}), "c");
  REQUIRE(newer.status().code() == Code::kFailedPrecondition);
  REQUIRE(newer.status().message() ==
          "commit record c has format version 2, but this program knows versions up to 1. Use the "
          "newer Convoy that wrote it; nothing was changed.");
  REQUIRE(decode_commit(wrap(RecordKind::kCommit, 0, {}), "c").status().code() == Code::kDataLoss);
}

TEST_CASE("hostile messages under a right checksum are refused") {
  const std::string tensor = field(4, field(1, std::string("t")) + field(2, 1) + packed(3, {4}));
  const std::string file = field(5, field(1, std::string("f")) + field(2, 100));
  const auto stream = [](const std::string& rest) { return field(6, rest); };
  // A stream of 16 bytes with one piece and one chunk, in columns that a case may replace.
  const auto with = [&](std::map<uint32_t, std::string> columns) {
    std::map<uint32_t, std::string> all = {{2, field(2, 16)},
                                           {3, field(3, 64)},
                                           {4, packed(4, {0})},
                                           {5, packed(5, {0})},
                                           {6, packed(6, {0})},
                                           {7, packed(7, {4})},
                                           {8, field(8, std::string(8, 'x'))},
                                           {10, packed(10, {1})},
                                           {11, packed(11, {0})},
                                           {12, packed(12, {0})}};
    for (auto& [number, bytes] : columns) all[number] = bytes;
    std::string text;
    for (const auto& [number, bytes] : all) text += bytes;
    return tensor + file + stream(text);
  };
  REQUIRE(part_failure(with({})).empty());
  const uint64_t huge = ~uint64_t{0};
  const std::vector<std::pair<std::string, std::string>> cases = {
      {with({{4, packed(4, {1})}}), "names no tensor"},
      {with({{5, packed(5, {1})}}), "beyond its stream"},
      {with({{5, packed(5, {huge})}}), "beyond any stream"},
      {with({{5, packed(5, {})}}), "columns of different length"},
      {with({{6, packed(6, {1})}}), "outside of tensor t"},
      {with({{6, packed(6, {huge})}}), "outside of tensor t"},
      {with({{7, packed(7, {0})}}), "extent below 1"},
      {with({{7, packed(7, {huge})}}), "extent below 1"},
      {with({{7, packed(7, {uint64_t{1} << 62})}}), "beyond any stream"},
      {with({{7, packed(7, {})}}), "lack dimensions"},
      {with({{6, packed(6, {0, 0})}, {7, packed(7, {4, 1})}}), "too many dimensions"},
      {with({{4, packed(4, {0, 0})},
             {5, packed(5, {0, huge - 15})},
             {6, packed(6, {0, 0})},
             {7, packed(7, {4, 4})}}),
       "beyond any stream"},
      {with({{2, field(2, huge)}}), "do not cover it"},
      {with({{2, field(2, 65)}}), "do not cover it"},
      {with({{3, field(3, 0)}}), "do not cover it"},
      {with({{3, field(3, kChunkBytesMax + 1)}}), "chunks have"},
      {with({{8, ""}}), "do not cover it"},
      {with({{9, packed(9, {16})}}), "do not fit"},
      {with({{9, packed(9, {1, 1})}}), "columns of different length"},
      {with({{10, packed(10, {0})}}), "too many chunks in runs"},
      {with({{10, packed(10, {2})}}), "too many chunks in runs"},
      {with({{10, ""}, {11, ""}, {12, ""}}), "chunks in no run"},
      {with({{11, packed(11, {1})}}), "names file 1 of 1"},
      {with({{12, packed(12, {85})}}), "beyond its file"},
      {with({{12, packed(12, {huge})}}), "beyond any file"},
      {with({}) + stream(""), "do not cover it"},
      {with({}) + stream(field(3, 1)), "occurs twice"},
      {with({}) + tensor, "occurs twice"},
      {field(4, field(2, 1)), "no name"},
      {field(4, field(1, std::string("t\0", 2)) + field(2, 1)), "holds a NUL"},
      {field(4, field(1, std::string("t")) + field(2, 19)), "unknown dtype 19"},
      {field(4, field(1, std::string("t")) + field(2, 257)), "unknown dtype"},
      {field(4, field(1, std::string("t")) + field(2, 18)), "must have one dimension"},
      {field(4, field(1, std::string("t")) + field(2, 1) + packed(3, {huge})), "a dimension of"},
      {field(4, field(1, std::string("t")) + field(2, 1) +
                    packed(3, {uint64_t{1} << 31, uint64_t{1} << 31})),
       "more than 2^62 bytes"},
      {field(4, field(1, std::string("t")) + field(2, 1) + packed(3, std::vector<uint64_t>(40, 1))),
       "dimensions, over"},
      {std::string("\x0b"), "no valid outline"},
      {std::string("\x22\x7f"), "no valid outline"},
      {field(4, std::string("\x08\xff")), "cannot be parsed"},
  };
  for (const auto& [payload, text] : cases) {
    CAPTURE(text);
    REQUIRE(part_failure(payload).find(text) != std::string::npos);
  }
  for (const char* path : {"/etc/passwd", "..", "a/../b", "a//b", "a/", "", ".", "a/./b"}) {
    CAPTURE(path);
    REQUIRE(part_failure(field(5, field(1, std::string(path)))).find("is refused") !=
            std::string::npos);
  }
  REQUIRE(part_failure(field(5, field(1, std::string("a\0b", 3)))).find("NUL") !=
          std::string::npos);
  REQUIRE(part_failure(field(5, field(1, std::string(2000, 'a')))).find("too long") !=
          std::string::npos);
  // Millions of empty submessages are refused before memory is taken for them.
  std::string many;
  for (uint64_t i = 0; i < 1500000; ++i) many += std::string("\x22\x00", 2);
  REQUIRE(part_failure(many).find("too many entries") != std::string::npos);
}

TEST_CASE("what breaks a rule is not written") {
  Part part = golden_part();
  part.streams[0].pieces[1].offset = 31;
  REQUIRE(encode(part).status().message() ==
          "cannot write a part: the stream of rank 8: piece 1: it overlaps the one before it, or "
          "pieces do not ascend");
  Commit commit = golden_commit();
  commit.steps = {120, 110};
  REQUIRE(encode(commit).status().code() == Code::kInvalidArgument);
  commit = golden_commit();
  commit.tensors[0].holders = {{1, 2}};
  REQUIRE_FALSE(encode(commit).ok());
  commit.tensors[0].holders = {{0, 1}, {1, 1}};  // not maximal
  REQUIRE_FALSE(encode(commit).ok());
  Owner owner = golden_owner();
  owner.job.clear();
  REQUIRE_FALSE(encode(owner).ok());
}

TEST_CASE("random damage under a right checksum is refused or harmless") {
  constexpr uint32_t kSeed = 7;
  std::mt19937 random(kSeed);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    CAPTURE(kSeed, i);
    const Bytes good = *encode(golden_part());
    Bytes payload(good.begin() + sizeof(FrameHeader), good.end() - sizeof(uint64_t));
    for (uint32_t n = 1 + random() % 3; n > 0; --n) {
      payload[random() % payload.size()] = static_cast<std::byte>(random());
    }
    if (random() % 8 == 0) payload.resize(random() % payload.size());
    const auto part = decode_part(wrap(RecordKind::kPart, 1, payload), "p");
    if (!part.ok()) {
      REQUIRE(part.status().code() == Code::kDataLoss);
      continue;
    }
    ++accepted;  // then it keeps every rule, and so can be written
    REQUIRE(*decode_part(*encode(*part), "p") == *part);
  }
  REQUIRE(accepted > 100);
}

TEST_CASE("dtypes have names and sizes") {
  for (uint8_t i = 1; i <= 18; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    REQUIRE(dtype_bytes(dtype) > 0);
    REQUIRE(*parse_dtype(dtype_name(dtype)) == dtype);
  }
  REQUIRE(dtype_bytes(static_cast<Dtype>(0)) == 0);
  REQUIRE(dtype_bytes(static_cast<Dtype>(19)) == 0);
  REQUIRE(parse_dtype("float7").status().message().find("use one of float32, float64") !=
          std::string::npos);
}

}  // namespace
}  // namespace convoy::ckpt
