#pragma once

#include <convoy/base/atomic_file.h>
#include <convoy/base/checksum.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

// Tokens of a text corpus on disk. docs/format/token_file.md describes every byte.
namespace convoy::dataset {

// What a token file says about itself.
struct TokenFileInfo {
  uint64_t tokens = 0;
  uint64_t documents = 0;  // 0: no table of documents
  uint64_t vocabulary_size = 0;
  uint32_t token_bytes = 0;  // 1, 2 or 4: the least that holds vocabulary_size - 1
  std::string tokenizer;
  uint64_t payload_checksum = 0;
};

// A token file, mapped read-only; pages come in as they are read. Movable; const calls from any
// thread. The file must not be shortened while it is open (the kernel would kill the reader with
// SIGBUS); the writer never does that, it replaces files.
class TokenFile {
 public:
  // Checks the header and that the size is exactly what it says; reads no tokens. kNotFound,
  // kDataLoss (truncated, corrupt header, other version) or kInvalidArgument (no token file); the
  // text says how to mend it.
  static Result<TokenFile> open(const std::string& path);
  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&&) = delete;
  ~TokenFile();

  const TokenFileInfo& info() const { return info_; }
  const std::string& path() const { return path_; }
  uint64_t size() const { return info_.tokens; }

  // Tokens [begin, begin + out.size()), which must lie within the file.
  void read(uint64_t begin, std::span<int64_t> out) const;
  // Where document i < info().documents begins, in tokens; never descending.
  uint64_t document_begin(uint64_t i) const;

  // Reads everything: kDataLoss if the payload differs from its checksum, or a token or document
  // lies outside of its range (a faulty writer).
  Status verify() const;

 private:
  TokenFile(std::string path, TokenFileInfo info, const std::byte* data, uint64_t bytes);

  std::string path_;
  TokenFileInfo info_;
  const std::byte* data_ = nullptr;  // the whole file; owned
  uint64_t bytes_ = 0;
};

// Writes a token file; it appears under its name when finish() succeeds. One thread at a time.
class TokenFileWriter {
 public:
  static Result<TokenFileWriter> create(const std::string& path, const std::string& tokenizer,
                                        uint64_t vocabulary_size);
  // What follows belongs to a new document.
  void begin_document() { documents_.push_back(tokens_); }
  // kInvalidArgument if a token is outside of the vocabulary.
  Status append(std::span<const uint32_t> tokens);
  uint64_t tokens() const { return tokens_; }
  Result<TokenFileInfo> finish();

 private:
  TokenFileWriter(AtomicFile file, TokenFileInfo info);
  Status append_payload(std::span<const std::byte> bytes);

  AtomicFile file_;
  TokenFileInfo info_;
  Xxh3Stream checksum_;
  uint64_t tokens_ = 0;
  std::vector<uint64_t> documents_;
  std::vector<std::byte> buffer_;
};

// The header of a token file of `file_bytes` bytes, from its first bytes (all of them, or 128).
// Never reads beyond `head`, whatever it holds. `path` is for messages.
Result<TokenFileInfo> parse_token_header(std::span<const std::byte> head, uint64_t file_bytes,
                                         const std::string& path);

// Samples are windows of seq + 1 tokens, sample i beginning at token i * seq: inputs are the first
// seq, targets the last seq. kInvalidArgument if seq < 1 or the file holds no whole sample.
Result<uint64_t> sample_count(const TokenFile& file, uint64_t seq);
// Reads sample `index` < sample_count(); `out` has seq + 1 entries.
void read_sample(const TokenFile& file, uint64_t index, std::span<int64_t> out);

}  // namespace convoy::dataset
