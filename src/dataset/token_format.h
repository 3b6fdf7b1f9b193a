#pragma once

#include <convoy/base/checksum.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

// The bytes of a token file's header; docs/format/token_file.md is the description.
namespace convoy::dataset {

inline constexpr char kTokenMagic[8] = {'C', 'V', 'T', 'O', 'K', 'E', 'N', '\n'};
inline constexpr uint32_t kTokenVersion = 1;
inline constexpr uint64_t kTokenizerNameMax = 63;  // bytes, without the NUL
inline constexpr uint64_t kTokenVocabularyMax = uint64_t{1} << 32;
inline constexpr uint64_t kTokenAlign = 8;  // the document table begins at a multiple of it

struct TokenHeader {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t tokens;
  uint64_t documents;
  uint64_t vocabulary_size;
  uint32_t token_bytes;
  uint32_t reserved;
  uint64_t payload_checksum;  // of all bytes after the header
  char tokenizer[kTokenizerNameMax + 1];
  uint64_t header_checksum;  // of all bytes before this field
};
static_assert(sizeof(TokenHeader) == 128 && std::is_trivially_copyable_v<TokenHeader>);
static_assert(offsetof(TokenHeader, tokenizer) == 56 &&
              offsetof(TokenHeader, header_checksum) == 120);
static_assert(std::endian::native == std::endian::little, "token files are little-endian");

inline uint64_t header_checksum(const TokenHeader& header) {
  return xxh3(std::as_bytes(std::span(&header, 1)).first(offsetof(TokenHeader, header_checksum)));
}

// The least of 1, 2 and 4 bytes that holds every token of the vocabulary.
inline uint32_t token_bytes_for(uint64_t vocabulary_size) {
  return vocabulary_size <= 1U << 8 ? 1 : vocabulary_size <= 1U << 16 ? 2 : 4;
}

// Where the table of documents begins, from the file's start: after the tokens, padded with zeros.
inline uint64_t documents_offset(uint64_t tokens, uint32_t token_bytes) {
  const uint64_t end = sizeof(TokenHeader) + tokens * token_bytes;
  return (end + kTokenAlign - 1) / kTokenAlign * kTokenAlign;
}

}  // namespace convoy::dataset
