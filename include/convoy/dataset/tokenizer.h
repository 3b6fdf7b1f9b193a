#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::dataset {

// Text to token numbers and back. Implementations are immutable, so all threads may share one.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Stored in token files; at most 63 bytes.
  virtual std::string name() const = 0;
  // Tokens are 0 .. vocabulary_size() - 1.
  virtual uint64_t vocabulary_size() const = 0;
  // Appends the tokens of `text` to `tokens`. Long documents come in pieces that end after a
  // newline (or anywhere, where a line is longer than a piece): no token crosses their ends.
  virtual void encode(std::string_view text, std::vector<uint32_t>& tokens) const = 0;
  // The text of tokens. Numbers outside of the vocabulary become U+FFFD.
  virtual std::string decode(std::span<const uint32_t> tokens) const = 0;
};

using TokenizerFactory = std::function<Result<std::unique_ptr<Tokenizer>>()>;

// Adds a tokenizer under `name`, or takes the place of the one there. "byte" (one token a byte,
// vocabulary 256) is always known. Thread-safe.
void register_tokenizer(const std::string& name, TokenizerFactory factory);
// kInvalidArgument for a name that nobody registered; the text lists those that are known.
Result<std::unique_ptr<Tokenizer>> make_tokenizer(const std::string& name);
std::vector<std::string> tokenizer_names();

}  // namespace convoy::dataset
