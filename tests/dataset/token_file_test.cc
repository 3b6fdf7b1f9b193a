// Token files: what is written is read back for each token width; a golden file of version 1 stays
// readable byte for byte; each kind of damage gets its message; thousands of random corruptions
// (printed seed) are either refused or harmless. Does not check a file that shrinks while mapped.
#include "src/dataset/token_format.h"
#include "tests/dataset/files.h"
#include "tests/temp_folder.h"
#include <convoy/dataset/token_file.h>

#include <catch2/catch.hpp>

#include <cstring>
#include <functional>
#include <random>

namespace convoy::dataset {
namespace {

std::vector<int64_t> all_tokens(const TokenFile& file) {
  std::vector<int64_t> tokens(file.size());
  file.read(0, tokens);
  return tokens;
}

void write(const std::string& path, uint64_t vocabulary,
           const std::vector<std::vector<uint32_t>>& documents) {
  auto writer = TokenFileWriter::create(path, "byte", vocabulary);
  REQUIRE(writer.ok());
  for (const auto& document : documents) {
    writer->begin_document();
    REQUIRE(writer->append(document).ok());
  }
  REQUIRE(writer->finish().ok());
}

// Changes a header's fields and makes its checksum right again.
std::string forge(std::string bytes, const std::function<void(TokenHeader&)>& change) {
  TokenHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  change(header);
  header.header_checksum = header_checksum(header);
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

TEST_CASE("tokens of every width come back, with their documents") {
  TempFolder folder;
  for (const uint64_t vocabulary : {2ULL, 256ULL, 257ULL, 65536ULL, 65537ULL, 1ULL << 32}) {
    const auto last = static_cast<uint32_t>(vocabulary - 1);
    write(folder / "t", vocabulary, {{0, last, 1}, {}, {last}});
    auto file = TokenFile::open(folder / "t");
    REQUIRE(file.ok());
    REQUIRE(file->verify().ok());
    REQUIRE(file->info().vocabulary_size == vocabulary);
    REQUIRE(file->info().token_bytes == (vocabulary <= 256 ? 1 : vocabulary <= 65536 ? 2 : 4));
    REQUIRE(all_tokens(*file) == std::vector<int64_t>{0, last, 1, last});
    REQUIRE(file->info().documents == 3);
    REQUIRE(file->document_begin(0) == 0);
    REQUIRE(file->document_begin(1) == 3);
    REQUIRE(file->document_begin(2) == 3);
  }
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("the golden file of version 1 is read, and written alike") {
  const auto golden = TokenFile::open(CONVOY_GOLDEN_TOKEN_FILE);
  REQUIRE(golden.ok());
  REQUIRE(golden->verify().ok());
  REQUIRE(golden->info().tokenizer == "byte");
  REQUIRE(golden->info().vocabulary_size == 300);
  REQUIRE(all_tokens(*golden) == std::vector<int64_t>{72, 105, 299, 0, 10});
  REQUIRE(golden->info().documents == 2);
  REQUIRE(golden->document_begin(1) == 3);
  TempFolder folder;
  write(folder / "t", 300, {{72, 105, 299}, {0, 10}});
  REQUIRE(slurp(folder / "t") == slurp(CONVOY_GOLDEN_TOKEN_FILE));
}

TEST_CASE("each kind of damage says what is wrong and how to mend it") {
  TempFolder folder;
  const std::string path = folder / "t";
  const auto failure = [&](const std::string& bytes) {
    spill(path, bytes);
    return TokenFile::open(path).status();
  };
  write(path, 256, {{1, 2, 3, 4, 5}});
  const std::string good = slurp(path);
  REQUIRE(good.size() == 144);

  REQUIRE(
      failure(good.substr(0, 143)).message() ==
      "token file " + path +
          " is truncated: it has 143 bytes, but its header tells of 5 tokens "
          "of 1 bytes and 1 documents, which is 144 bytes. Copy it again, or make it again with "
          "`convoy data prepare`.");
  REQUIRE(failure(good.substr(0, 60)).message() ==
          "token file " + path +
              " is truncated: it has 60 bytes, less than its header. Make it "
              "again with `convoy data prepare`.");
  REQUIRE(failure(good + "x").message().find("is too long: it has 145 bytes") != std::string::npos);
  for (const size_t bytes : {0, 5, 8}) {
    REQUIRE(failure(good.substr(0, bytes))
                .message()
                .find("is truncated: it has " + std::to_string(bytes) + " bytes") !=
            std::string::npos);
  }
  for (const std::string& other : {std::string("Hello"), std::string(500, 'x')}) {
    REQUIRE(failure(other).message() ==
            path +
                " is not a token file: it does not begin with the token file mark. Give the "
                "output of `convoy data prepare`, not its input.");
  }
  REQUIRE(failure(forge(good, [](TokenHeader& h) { h.version = 2; })).message() ==
          "token file " + path +
              " has format version 2, but this program reads version 1. Make it "
              "again with `convoy data prepare`.");
  REQUIRE(TokenFile::open(path).status().code() == Code::kDataLoss);
  std::string flipped = good;
  flipped[40] ^= 4;
  REQUIRE(failure(flipped).message() ==
          "token file " + path +
              " is damaged: its header does not match its checksum. Make it again "
              "with `convoy data prepare`.");
  // Sizes that overflow when multiplied.
  for (const uint64_t tokens : {~uint64_t{0}, uint64_t{1} << 63, ~uint64_t{0} - 127}) {
    REQUIRE(failure(forge(good, [&](TokenHeader& h) { h.tokens = tokens; })).code() ==
            Code::kDataLoss);
    REQUIRE(failure(forge(good, [&](TokenHeader& h) { h.documents = tokens; })).code() ==
            Code::kDataLoss);
  }
  for (const auto& change : std::vector<std::function<void(TokenHeader&)>>{
           [](TokenHeader& h) { h.token_bytes = 0; }, [](TokenHeader& h) { h.token_bytes = 3; },
           [](TokenHeader& h) { h.vocabulary_size = 0; },
           [](TokenHeader& h) { h.vocabulary_size = ~uint64_t{0}; },
           [](TokenHeader& h) { h.header_bytes = 64; },
           [](TokenHeader& h) { std::memset(h.tokenizer, 'a', sizeof(h.tokenizer)); }}) {
    REQUIRE(failure(forge(good, change)).code() == Code::kDataLoss);
  }
  REQUIRE(TokenFile::open(folder / "none").status().message() ==
          "cannot open token file " + (folder / "none") +
              ": No such file or directory. Make token "
              "files with `convoy data prepare`.");
}

TEST_CASE("verify finds what open does not read") {
  TempFolder folder;
  const std::string path = folder / "t";
  write(path, 200, {{1, 2, 3, 4, 5}});
  std::string bytes = slurp(path);
  bytes[130] ^= 1;
  spill(path, bytes);
  auto file = TokenFile::open(path);
  REQUIRE(file.ok());
  REQUIRE(file->verify().message() ==
          "token file " + path +
              " is damaged: its tokens do not match their checksum. Make it again "
              "with `convoy data prepare`.");
  // A writer that made a token outside of its vocabulary, with right checksums.
  bytes[130] = static_cast<char>(250);
  const std::span payload = std::as_bytes(std::span(bytes)).subspan(sizeof(TokenHeader));
  spill(path, forge(bytes, [&](TokenHeader& h) { h.payload_checksum = xxh3(payload); }));
  auto faulty = TokenFile::open(path);
  REQUIRE(faulty.ok());
  REQUIRE(faulty->verify().message().find("token 250 is outside of its vocabulary of 200") !=
          std::string::npos);
}

TEST_CASE("thousands of random corruptions are refused or harmless") {
  constexpr uint32_t kSeed = 20261123;
  CAPTURE(kSeed);
  std::mt19937 random(kSeed);
  TempFolder folder;
  const std::string path = folder / "t";
  write(path, 300, {{1, 2, 3}, {4, 5, 299, 7}});
  const std::string good = slurp(path);
  int accepted = 0;
  int repaired = 0;
  for (int i = 0; i < 6000; ++i) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int c = 0; c < changes; ++c) {
      // Mostly the header; its checksum is made right half of the time, so that fields are reached.
      const size_t at = random() % (random() % 4 == 0 ? bytes.size() : sizeof(TokenHeader));
      bytes[at] = static_cast<char>(random() % 3 == 0 ? random() : bytes[at] ^ (1 << random() % 8));
    }
    if (random() % 2 == 0) {
      bytes = forge(bytes, [](TokenHeader&) {});
      ++repaired;
    }
    if (random() % 4 == 0) bytes.resize(random() % (2 * good.size()));
    spill(path, bytes);
    auto file = TokenFile::open(path);
    if (!file.ok()) {
      REQUIRE(file.status().message().size() > 20);
      continue;
    }
    ++accepted;
    const Status verified = file->verify();  // must not read outside of the mapping: asan watches
    if (bytes != good && !verified.ok()) REQUIRE(verified.code() == Code::kDataLoss);
    all_tokens(*file);
  }
  REQUIRE(accepted > 100);
  REQUIRE(repaired > 2000);
}

TEST_CASE("a writer that is dropped leaves nothing, and bad tokens are refused") {
  TempFolder folder;
  {
    auto writer = TokenFileWriter::create(folder / "t", "byte", 256);
    REQUIRE(writer.ok());
    REQUIRE(writer->append(std::vector<uint32_t>{1, 2}).ok());
    REQUIRE(writer->append(std::vector<uint32_t>{256}).message().find("made token 256") !=
            std::string::npos);
  }
  REQUIRE(folder.entries() == 0);
  REQUIRE(TokenFileWriter::create(folder / "none/t", "byte", 256).status().code() ==
          Code::kNotFound);
  REQUIRE_FALSE(TokenFileWriter::create(folder / "t", std::string(64, 'n'), 256).ok());
}

TEST_CASE("samples are overlapping windows, and too short files are refused") {
  TempFolder folder;
  write(folder / "t", 256, {{0, 1, 2, 3, 4, 5, 6}});
  const TokenFile file = TokenFile::open(folder / "t").value();
  REQUIRE(*sample_count(file, 3) == 2);
  REQUIRE(*sample_count(file, 6) == 1);
  std::vector<int64_t> sample(4);
  read_sample(file, 1, sample);
  REQUIRE(sample == std::vector<int64_t>{3, 4, 5, 6});
  REQUIRE(sample_count(file, 7).status().message().find("too few for one sample") !=
          std::string::npos);
  REQUIRE_FALSE(sample_count(file, 0).ok());
}

}  // namespace
}  // namespace convoy::dataset
