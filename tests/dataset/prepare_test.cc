// Preparing token files: every byte of the input is in exactly one part, parts are cut at line ends
// close to their shares, documents begin where files begin, and wrong input leaves nothing behind.
// Inputs are larger than the internal piece of 1 MiB where that matters.
#include "tests/dataset/files.h"
#include "tests/temp_folder.h"
#include <convoy/dataset/prepare.h>
#include <convoy/dataset/tokenizer.h>

#include <catch2/catch.hpp>

#include <random>

namespace convoy::dataset {
namespace {

std::string text_of(const std::string& path) {
  const TokenFile file = TokenFile::open(path).value();
  REQUIRE(file.verify().ok());
  std::vector<int64_t> tokens(file.size());
  file.read(0, tokens);
  return {tokens.begin(), tokens.end()};
}

// Lines of random lengths, some of them longer than a piece.
std::string random_text(std::mt19937& random, size_t bytes) {
  std::string text;
  while (text.size() < bytes) {
    text.append(random() % 50 == 0 ? random() % (3 << 20) : random() % 200, 'a' + random() % 26);
    text += '\n';
  }
  text.resize(bytes);
  return text;
}

TEST_CASE("no byte is lost or doubled, whatever the sizes and the split") {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    TempFolder folder;
    PrepareOptions options;
    options.output = folder / "out";
    std::string whole;
    const size_t files = 1 + random() % 3;
    for (size_t i = 0; i < files; ++i) {
      const std::string text = random_text(random, 10 + random() % (4 << 20));
      options.inputs.push_back(folder / ("in" + std::to_string(i)));
      spill(options.inputs.back(), text);
      whole += text;
    }
    options.split = {{"train", 0.9}, {"validation", 0.07}, {"test", 0.03}};
    uint64_t last = 0;
    const auto done = prepare(options, [&](uint64_t at, uint64_t total) {
      REQUIRE(at > last);
      REQUIRE(total == whole.size());
      last = at;
    });
    if (!done.ok()) {  // a tiny text, or one line that fills a part
      REQUIRE(done.status().message().find("would hold no token") != std::string::npos);
      continue;
    }
    REQUIRE(last == whole.size());
    std::string joined;
    for (const PreparedFile& file : *done) joined += text_of(file.path);
    REQUIRE(joined == whole);
    REQUIRE((*done)[0].info.documents >= 1);
    REQUIRE(folder.entries() == files + 3);
  }
}

TEST_CASE("parts end after a line near their share; documents begin with files") {
  TempFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i)
    text += "line " + std::to_string(1000 + i) + "\n";  // 10 bytes each
  spill(folder / "a", text);
  spill(folder / "b", text);
  PrepareOptions options{{folder / "a", folder / "b"}, folder / "out", "byte", {}};
  options.split = *parse_split("train=0.9003,validation=0.0997");
  const auto files = prepare(options);
  REQUIRE(files.ok());
  const std::string train = text_of(folder / "out.train.tokens");
  REQUIRE(train.size() == 18000);  // 18006 is the share; the line before it ends at 18000
  REQUIRE(train.back() == '\n');
  REQUIRE((*files)[0].info.documents == 2);
  REQUIRE(TokenFile::open(files->front().path)->document_begin(1) == text.size());
  REQUIRE((*files)[1].part == "validation");
  REQUIRE((*files)[1].info.tokens == 2000);
}

TEST_CASE("wrong input says so and leaves nothing behind") {
  TempFolder folder;
  spill(folder / "a", "some text\n");
  spill(folder / "empty", "");
  const auto why = [&](std::vector<std::string> inputs, const std::string& tokenizer = "byte") {
    const auto result = prepare({std::move(inputs), folder / "out", tokenizer, {}});
    REQUIRE_FALSE(result.ok());
    return result.status().message();
  };
  REQUIRE(why({}) == "no text files were given to prepare.");
  REQUIRE(why({folder / "none"}) ==
          "cannot read " + (folder / "none") + ": No such file or directory");
  REQUIRE(why({folder / "."}).find("it is no regular file") != std::string::npos);
  REQUIRE(why({folder / "empty"}).find("would hold no token: give more text.") !=
          std::string::npos);
  REQUIRE(why({folder / "a"}, "words") == "there is no tokenizer named 'words'; known: byte.");
  REQUIRE(folder.entries() == 2);
  REQUIRE(
      prepare({{folder / "a"}, folder / ".", "byte", {}}).status().message().find("is a folder") !=
      std::string::npos);
}

TEST_CASE("splits are read, or refused with the reason") {
  const auto split = parse_split("train=0.95,validation=0.05");
  REQUIRE(split.ok());
  REQUIRE((*split)[1] == std::pair<std::string, double>("validation", 0.05));
  REQUIRE(parse_split("")->empty());
  REQUIRE(parse_split("train=0.9,validation=0.05").status().message() ==
          "split 'train=0.9,validation=0.05' adds up to 0.950000, not to 1; write it like "
          "train=0.95,validation=0.05.");
  for (const char* text : {"train", "=1", "train=", "train=x", "train=0,b=1", "train=2",
                           "a=0.5,a=0.5", "../x=1", "train=nan", "a=-1,b=2"}) {
    CAPTURE(text);
    REQUIRE(parse_split(text).status().code() == Code::kInvalidArgument);
  }
}

// Pairs of bytes as one token, with its own width.
class PairTokenizer final : public Tokenizer {
 public:
  std::string name() const override { return "pair"; }
  uint64_t vocabulary_size() const override { return 65536; }
  void encode(std::string_view text, std::vector<uint32_t>& tokens) const override {
    for (size_t i = 0; i + 1 < text.size(); i += 2) {
      tokens.push_back(static_cast<uint8_t>(text[i]) << 8 | static_cast<uint8_t>(text[i + 1]));
    }
  }
  std::string decode(std::span<const uint32_t> tokens) const override { return {}; }
};

TEST_CASE("a tokenizer can be plugged in") {
  register_tokenizer(
      "pair", [] { return Result<std::unique_ptr<Tokenizer>>(std::make_unique<PairTokenizer>()); });
  TempFolder folder;
  spill(folder / "a", "abcd");
  const auto files = prepare({{folder / "a"}, folder / "out", "pair", {}});
  REQUIRE(files.ok());
  REQUIRE(files->front().info.tokens == 2);
  REQUIRE(files->front().info.token_bytes == 2);
  REQUIRE(files->front().info.tokenizer == "pair");
  const auto byte = make_tokenizer("byte");
  std::vector<uint32_t> tokens;
  (*byte)->encode("A\xff", tokens);
  REQUIRE(tokens == std::vector<uint32_t>{65, 255});
  REQUIRE((*byte)->decode(std::vector<uint32_t>{72, 300}) == "H\xef\xbf\xbd");
}

}  // namespace
}  // namespace convoy::dataset
