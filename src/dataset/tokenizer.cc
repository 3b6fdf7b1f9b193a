// The registry of tokenizers, and the one that is always there: a token a byte.
#include <convoy/dataset/tokenizer.h>

#include <map>
#include <mutex>

namespace convoy::dataset {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  std::string name() const override { return "byte"; }
  uint64_t vocabulary_size() const override { return 256; }
  void encode(std::string_view text, std::vector<uint32_t>& tokens) const override {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  }
  std::string decode(std::span<const uint32_t> tokens) const override {
    std::string text;
    for (const uint32_t token : tokens) {
      if (token < 256) {
        text += static_cast<char>(token);
      } else {
        text += "\xef\xbf\xbd";
      }
    }
    return text;
  }
};

struct Registry {
  std::mutex mutex;
  std::map<std::string, TokenizerFactory> factories{
      {"byte",
       [] { return Result<std::unique_ptr<Tokenizer>>(std::make_unique<ByteTokenizer>()); }}};
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

void register_tokenizer(const std::string& name, TokenizerFactory factory) {
  const std::lock_guard lock(registry().mutex);
  registry().factories[name] = std::move(factory);
}

Result<std::unique_ptr<Tokenizer>> make_tokenizer(const std::string& name) {
  TokenizerFactory factory;
  std::string known;
  {
    const std::lock_guard lock(registry().mutex);
    for (const auto& [key, value] : registry().factories) {
      known += (known.empty() ? "" : ", ") + key;
      if (key == name) factory = value;
    }
  }
  if (factory) return factory();
  return Status(Code::kInvalidArgument,
                "there is no tokenizer named '" + name + "'; known: " + known + ".");
}

std::vector<std::string> tokenizer_names() {
  const std::lock_guard lock(registry().mutex);
  std::vector<std::string> names;
  for (const auto& [name, factory] : registry().factories) names.push_back(name);
  return names;
}

}  // namespace convoy::dataset
