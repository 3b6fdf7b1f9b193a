// Decides whether bytes are a token file, and reads tokens from a mapping of it. Nothing in a
// header is believed before it has been checked: sizes are compared without overflow, against the
// file.
#include "src/dataset/token_format.h"
#include <convoy/base/fd.h>
#include <convoy/dataset/token_file.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::dataset {
namespace {

const char* const kRemedy = " Make it again with `convoy data prepare`.";

Status not_a_token_file(const std::string& path) {
  return Status(Code::kInvalidArgument,
                path +
                    " is not a token file: it does not begin with the token file mark. Give the "
                    "output of `convoy data prepare`, not its input.");
}

Status damaged(const std::string& path, const std::string& what) {
  return Status(Code::kDataLoss, "token file " + path + " is damaged: " + what + "." + kRemedy);
}

// A header whose checksum is right, but which no writer of this version makes.
Status check_fields(const TokenHeader& header, const std::string& path) {
  if (header.header_bytes != sizeof(TokenHeader)) {
    return damaged(path, "its header claims " + std::to_string(header.header_bytes) + " bytes");
  }
  if (header.vocabulary_size == 0 || header.vocabulary_size > kTokenVocabularyMax) {
    return damaged(path, "its vocabulary size is " + std::to_string(header.vocabulary_size));
  }
  if (header.token_bytes != token_bytes_for(header.vocabulary_size)) {
    return damaged(path, "its tokens have " + std::to_string(header.token_bytes) +
                             " bytes, which does not fit a vocabulary of " +
                             std::to_string(header.vocabulary_size));
  }
  if (header.tokenizer[kTokenizerNameMax] != '\0') {
    return damaged(path, "its tokenizer's name has no end");
  }
  return ok_status();
}

Status check_size(const TokenHeader& header, uint64_t file_bytes, const std::string& path) {
  // Counts that alone exceed the file are refused first, so that no product can overflow.
  const bool plausible =
      header.tokens <= file_bytes / header.token_bytes && header.documents <= file_bytes / 8;
  uint64_t expected = 0;
  if (plausible) {
    expected = header.documents == 0
                   ? sizeof(TokenHeader) + header.tokens * header.token_bytes
                   : documents_offset(header.tokens, header.token_bytes) + 8 * header.documents;
  }
  if (expected == file_bytes) return ok_status();
  std::string text = std::to_string(file_bytes) + " bytes, but its header tells of " +
                     std::to_string(header.tokens) + " tokens of " +
                     std::to_string(header.token_bytes) + " bytes and " +
                     std::to_string(header.documents) + " documents";
  if (plausible) text += ", which is " + std::to_string(expected) + " bytes";
  const bool short_file = !plausible || file_bytes < expected;
  return Status(Code::kDataLoss,
                "token file " + path +
                    (short_file ? " is truncated: it has " : " is too long: it has ") + text + "." +
                    (short_file ? " Copy it again, or make it again with `convoy "
                                  "data prepare`."
                                : kRemedy));
}

template <class T>
void widen(const std::byte* from, std::span<int64_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T token;
    std::memcpy(&token, from + i * sizeof(T), sizeof(T));
    out[i] = token;
  }
}

}  // namespace

Result<TokenFileInfo> parse_token_header(std::span<const std::byte> head, uint64_t file_bytes,
                                         const std::string& path) {
  const size_t known = std::min(head.size(), sizeof(kTokenMagic));
  if (!std::ranges::equal(head.first(known), std::as_bytes(std::span(kTokenMagic)).first(known))) {
    return not_a_token_file(path);
  }
  if (head.size() < sizeof(TokenHeader) || file_bytes < sizeof(TokenHeader)) {
    return Status(Code::kDataLoss, "token file " + path + " is truncated: it has " +
                                       std::to_string(file_bytes) +
                                       " bytes, less than its header." + kRemedy);
  }
  TokenHeader header;
  std::memcpy(&header, head.data(), sizeof(header));
  if (header.version != kTokenVersion) {
    return Status(Code::kDataLoss, "token file " + path + " has format version " +
                                       std::to_string(header.version) +
                                       ", but this program reads version " +
                                       std::to_string(kTokenVersion) + "." + kRemedy);
  }
  if (header.header_checksum != header_checksum(header)) {
    return damaged(path, "its header does not match its checksum");
  }
  CONVOY_RETURN_IF_ERROR(check_fields(header, path));
  CONVOY_RETURN_IF_ERROR(check_size(header, file_bytes, path));
  return TokenFileInfo{header.tokens,      header.documents, header.vocabulary_size,
                       header.token_bytes, header.tokenizer, header.payload_checksum};
}

Result<TokenFile> TokenFile::open(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const Status status = errno_status("cannot open token file " + path, errno);
    if (status.code() != Code::kNotFound) return status;
    return Status(status.code(),
                  status.message() + ". Make token files with `convoy data prepare`.");
  }
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return errno_status("cannot stat " + path, errno);
  if (!S_ISREG(info.st_mode)) return not_a_token_file(path);
  if (info.st_size == 0) return parse_token_header({}, 0, path).status();
  const auto bytes = static_cast<uint64_t>(info.st_size);
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return errno_status("cannot map token file " + path, errno);
  TokenFile file(path, {}, static_cast<const std::byte*>(data), bytes);
  CONVOY_ASSIGN_OR_RETURN(file.info_, parse_token_header({file.data_, bytes}, bytes, path));
  return file;
}

TokenFile::TokenFile(std::string path, TokenFileInfo info, const std::byte* data, uint64_t bytes)
    : path_(std::move(path)), info_(std::move(info)), data_(data), bytes_(bytes) {}

TokenFile::TokenFile(TokenFile&& other) noexcept
    : path_(std::move(other.path_)),
      info_(std::move(other.info_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_) {}

TokenFile::~TokenFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), bytes_);
}

void TokenFile::read(uint64_t begin, std::span<int64_t> out) const {
  CONVOY_CHECK(begin <= info_.tokens && out.size() <= info_.tokens - begin,
               "tokens outside of " + path_ + " were asked for");
  const std::byte* from = data_ + sizeof(TokenHeader) + begin * info_.token_bytes;
  switch (info_.token_bytes) {
    case 1:
      return widen<uint8_t>(from, out);
    case 2:
      return widen<uint16_t>(from, out);
    default:
      return widen<uint32_t>(from, out);
  }
}

uint64_t TokenFile::document_begin(uint64_t i) const {
  CONVOY_CHECK(i < info_.documents, path_ + " has no such document");
  uint64_t begin = 0;
  std::memcpy(&begin, data_ + documents_offset(info_.tokens, info_.token_bytes) + 8 * i, 8);
  return begin;
}

Status TokenFile::verify() const {
  const std::span payload(data_ + sizeof(TokenHeader), bytes_ - sizeof(TokenHeader));
  if (xxh3(payload) != info_.payload_checksum) {
    return damaged(path_, "its tokens do not match their checksum");
  }
  constexpr uint64_t kBlock = 4096;  // tokens
  std::vector<int64_t> block(kBlock);
  for (uint64_t begin = 0; begin < info_.tokens; begin += kBlock) {
    const std::span part = std::span(block).first(std::min(kBlock, info_.tokens - begin));
    read(begin, part);
    const auto most = static_cast<uint64_t>(*std::max_element(part.begin(), part.end()));
    if (most >= info_.vocabulary_size) {
      return damaged(path_, "token " + std::to_string(most) + " is outside of its vocabulary of " +
                                std::to_string(info_.vocabulary_size));
    }
  }
  uint64_t last = 0;
  for (uint64_t i = 0; i < info_.documents; ++i) {
    const uint64_t begin = document_begin(i);
    if (begin < last || begin > info_.tokens) {
      return damaged(path_, "document " + std::to_string(i) + " begins out of range");
    }
    last = begin;
  }
  return ok_status();
}

Result<uint64_t> sample_count(const TokenFile& file, uint64_t seq) {
  if (seq < 1 || file.size() < 1 || file.size() - 1 < seq) {
    return Status(Code::kInvalidArgument,
                  "token file " + file.path() + " has " + std::to_string(file.size()) +
                      " tokens, too few for one sample of sequence length " + std::to_string(seq) +
                      " (which needs one token more than its length): use a shorter sequence or "
                      "more text.");
  }
  return (file.size() - 1) / seq;
}

void read_sample(const TokenFile& file, uint64_t index, std::span<int64_t> out) {
  CONVOY_CHECK(out.size() >= 2, "a sample has at least two tokens");
  file.read(index * (out.size() - 1), out);
}

}  // namespace convoy::dataset
