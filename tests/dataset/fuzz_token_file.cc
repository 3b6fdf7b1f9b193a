// libFuzzer target: no bytes, however made, may crash the header's parser or make it accept sizes
// that lie outside of the file. Inputs are repaired (mark, version, checksum) half of the time, as
// the fuzzer would hardly ever get past them alone.
#include "src/dataset/token_format.h"
#include <convoy/base/check.h>
#include <convoy/dataset/token_file.h>

#include <algorithm>
#include <cstring>
#include <vector>

using convoy::dataset::TokenHeader;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t file_bytes = 0;
  std::memcpy(&file_bytes, data, 8);
  std::vector<std::byte> bytes(size - 8);
  if (!bytes.empty()) std::memcpy(bytes.data(), data + 8, bytes.size());
  if ((file_bytes & 1) != 0 && bytes.size() >= sizeof(TokenHeader)) {
    TokenHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    std::memcpy(header.magic, convoy::dataset::kTokenMagic, sizeof(header.magic));
    header.version = convoy::dataset::kTokenVersion;
    header.header_bytes = sizeof(TokenHeader);
    header.vocabulary_size = header.vocabulary_size % convoy::dataset::kTokenVocabularyMax + 1;
    header.token_bytes = convoy::dataset::token_bytes_for(header.vocabulary_size);
    header.tokenizer[sizeof(header.tokenizer) - 1] = '\0';
    header.header_checksum = convoy::dataset::header_checksum(header);
    std::memcpy(bytes.data(), &header, sizeof(header));
  }
  const auto info = convoy::dataset::parse_token_header(bytes, file_bytes, "fuzz");
  if (info.ok()) {
    CONVOY_CHECK(info->tokens <= file_bytes && info->documents <= file_bytes,
                 "sizes beyond the file");
    CONVOY_CHECK(sizeof(TokenHeader) + info->tokens * info->token_bytes <= file_bytes,
                 "tokens beyond the file");
  }
  return 0;
}
