// Writes token files: payload first, checksums on the way, the header last.
#include "src/dataset/token_format.h"
#include <convoy/dataset/token_file.h>

#include <cstring>

namespace convoy::dataset {

TokenFileWriter::TokenFileWriter(AtomicFile file, TokenFileInfo info)
    : file_(std::move(file)), info_(std::move(info)) {}

Result<TokenFileWriter> TokenFileWriter::create(const std::string& path,
                                                const std::string& tokenizer,
                                                uint64_t vocabulary_size) {
  if (tokenizer.empty() || tokenizer.size() > kTokenizerNameMax || vocabulary_size == 0 ||
      vocabulary_size > kTokenVocabularyMax) {
    return Status(Code::kInvalidArgument,
                  "tokenizer '" + tokenizer + "' with a vocabulary of " +
                      std::to_string(vocabulary_size) +
                      " cannot be stored in a token file: names have 1 to 63 bytes, vocabularies 1 "
                      "to 2^32 tokens.");
  }
  CONVOY_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  const std::byte empty[sizeof(TokenHeader)] = {};
  CONVOY_RETURN_IF_ERROR(file.append(empty));
  return TokenFileWriter(
      std::move(file),
      TokenFileInfo{0, 0, vocabulary_size, token_bytes_for(vocabulary_size), tokenizer, 0});
}

Status TokenFileWriter::append_payload(std::span<const std::byte> bytes) {
  checksum_.update(bytes);
  return file_.append(bytes);
}

Status TokenFileWriter::append(std::span<const uint32_t> tokens) {
  buffer_.resize(tokens.size() * info_.token_bytes);
  std::byte* out = buffer_.data();
  for (const uint32_t token : tokens) {
    if (token >= info_.vocabulary_size) {
      return Status(Code::kInvalidArgument, "tokenizer '" + info_.tokenizer + "' made token " +
                                                std::to_string(token) +
                                                ", outside of its vocabulary of " +
                                                std::to_string(info_.vocabulary_size) + ".");
    }
    std::memcpy(out, &token, info_.token_bytes);  // little-endian: the low bytes come first
    out += info_.token_bytes;
  }
  tokens_ += tokens.size();
  return append_payload(buffer_);
}

Result<TokenFileInfo> TokenFileWriter::finish() {
  if (!documents_.empty()) {
    const uint64_t padding = documents_offset(tokens_, info_.token_bytes) - file_.size();
    const std::byte zeros[kTokenAlign] = {};
    CONVOY_RETURN_IF_ERROR(append_payload(std::span(zeros).first(padding)));
    CONVOY_RETURN_IF_ERROR(append_payload(std::as_bytes(std::span(documents_))));
  }
  info_.tokens = tokens_;
  info_.documents = documents_.size();
  info_.payload_checksum = checksum_.digest();

  TokenHeader header = {};
  std::memcpy(header.magic, kTokenMagic, sizeof(kTokenMagic));
  header.version = kTokenVersion;
  header.header_bytes = sizeof(TokenHeader);
  header.tokens = info_.tokens;
  header.documents = info_.documents;
  header.vocabulary_size = info_.vocabulary_size;
  header.token_bytes = info_.token_bytes;
  header.payload_checksum = info_.payload_checksum;
  std::memcpy(header.tokenizer, info_.tokenizer.data(), info_.tokenizer.size());
  header.header_checksum = header_checksum(header);
  CONVOY_RETURN_IF_ERROR(file_.write_at(0, std::as_bytes(std::span(&header, 1))));
  CONVOY_RETURN_IF_ERROR(file_.commit());
  return info_;
}

}  // namespace convoy::dataset
