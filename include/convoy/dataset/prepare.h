#pragma once

#include <convoy/base/status.h>
#include <convoy/dataset/token_file.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::dataset {

struct PrepareOptions {
  std::vector<std::string> inputs;  // text files; each is one document, in this order
  std::string output;               // a path; with a split, "OUT.train.tokens" and so on beside it
  std::string tokenizer = "byte";
  // Name and share of each part, e.g. {"train", 0.95}, {"validation", 0.05}; shares sum to 1.
  // Empty: one file, `output` itself. Parts are consecutive in the text; cuts fall after a newline
  // where there is one.
  std::vector<std::pair<std::string, double>> split;
};

struct PreparedFile {
  std::string part;  // empty without a split
  std::string path;
  TokenFileInfo info;
};

// Called now and then with input bytes done and in all.
using PrepareProgress = std::function<void(uint64_t done, uint64_t total)>;

// Tokenizes the inputs. Each file appears only when it is complete; after a failure no new file is
// there. Blocks on the disk; memory use does not grow with the input.
Result<std::vector<PreparedFile>> prepare(const PrepareOptions& options,
                                          const PrepareProgress& progress = {});

// "train=0.95,validation=0.05" to the option above; an empty text is no split. kInvalidArgument
// says what is wrong with it.
Result<std::vector<std::pair<std::string, double>>> parse_split(const std::string& text);

}  // namespace convoy::dataset
