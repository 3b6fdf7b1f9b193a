// Turns text files into token files: decides where documents, pieces and parts begin and end.
#include <convoy/base/fd.h>
#include <convoy/dataset/prepare.h>
#include <convoy/dataset/tokenizer.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::dataset {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;    // text that is tokenized at once
constexpr double kShareSumTolerance = 1e-6;  // split shares are decimal fractions

struct Input {
  std::string path;
  UniqueFd fd;
  uint64_t bytes = 0;
};

Result<std::vector<Input>> open_inputs(const std::vector<std::string>& paths) {
  if (paths.empty()) {
    return Status(Code::kInvalidArgument, "no text files were given to prepare.");
  }
  std::vector<Input> inputs;
  for (const std::string& path : paths) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info = {};
    if (!fd || ::fstat(fd.get(), &info) != 0) return errno_status("cannot read " + path, errno);
    if (!S_ISREG(info.st_mode)) {
      return Status(
          Code::kInvalidArgument,
          "cannot read " + path + ": it is no regular file (folders and pipes don't work).");
    }
    inputs.push_back({path, std::move(fd), static_cast<uint64_t>(info.st_size)});
  }
  return inputs;
}

Status read_exactly(const Input& input, uint64_t offset, std::string& out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(input.fd.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_status("cannot read " + input.path, errno);
    if (n == 0) {
      return Status(Code::kDataLoss, input.path +
                                         " became shorter while it was read: prepare it "
                                         "again when nobody writes to it.");
    }
    done += n;
  }
  return ok_status();
}

// One part of the split and the input byte (counted over all inputs) at which it ends.
struct Part {
  std::string name;
  std::string path;
  uint64_t end;
};

Result<std::vector<Part>> plan_parts(const PrepareOptions& options, uint64_t total) {
  if (options.split.empty()) return std::vector<Part>{{"", options.output, total}};
  std::vector<Part> parts;
  double share = 0;
  for (const auto& [name, fraction] : options.split) {
    share += fraction;
    const auto end = static_cast<uint64_t>(std::llround(share * static_cast<double>(total)));
    parts.push_back({name, options.output + "." + name + ".tokens", std::min(end, total)});
  }
  parts.back().end = total;
  return parts;
}

class Preparation {
 public:
  Preparation(const Tokenizer& tokenizer, std::vector<Part> parts, uint64_t total,
              const PrepareProgress& progress)
      : tokenizer_(tokenizer), parts_(std::move(parts)), total_(total), progress_(progress) {}

  Status run(const std::vector<Input>& inputs) {
    for (const Part& part : parts_) {
      CONVOY_ASSIGN_OR_RETURN(
          TokenFileWriter writer,
          TokenFileWriter::create(part.path, tokenizer_.name(), tokenizer_.vocabulary_size()));
      writers_.push_back(std::move(writer));
    }
    for (const Input& input : inputs) CONVOY_RETURN_IF_ERROR(add_document(input));
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (writers_[i].tokens() > 0) continue;
      return Status(Code::kInvalidArgument,
                    parts_[i].path + " would hold no token: give more text" +
                        (parts_.size() > 1 ? " or a larger share of the split." : "."));
    }
    return ok_status();
  }

  Result<std::vector<PreparedFile>> finish() {
    std::vector<PreparedFile> files;
    for (size_t i = 0; i < parts_.size(); ++i) {
      Result<TokenFileInfo> info = writers_[i].finish();
      if (!info.ok()) {
        for (const PreparedFile& file : files) ::unlink(file.path.c_str());
        return info.status();
      }
      files.push_back({parts_[i].name, parts_[i].path, *info});
    }
    return files;
  }

 private:
  Status add_document(const Input& input) {
    uint64_t at = 0;
    bool begun = false;
    while (at < input.bytes) {
      if (done_ >= parts_[part_].end && part_ + 1 < parts_.size()) {
        ++part_;
        begun = false;
        continue;
      }
      if (!begun) writers_[part_].begin_document();
      begun = true;
      const uint64_t left = parts_[part_].end - done_;
      std::string text(std::min({kPieceBytes, input.bytes - at, left}), '\0');
      CONVOY_RETURN_IF_ERROR(read_exactly(input, at, text));
      trim_to_line(text, input.bytes - at, left);
      tokens_.clear();
      tokenizer_.encode(text, tokens_);
      CONVOY_RETURN_IF_ERROR(writers_[part_].append(tokens_));
      at += text.size();
      done_ += text.size();
      if (progress_) progress_(done_, total_);
    }
    return ok_status();
  }

  // Ends a piece after its last newline, where it has one; a document's end needs none. The last
  // piece of a part moves the part's end there.
  void trim_to_line(std::string& text, uint64_t document_left, uint64_t part_left) {
    if (text.size() == document_left) return;
    const bool last_of_part = text.size() == part_left && part_ + 1 < parts_.size();
    const size_t newline = text.rfind('\n');
    if (newline != std::string::npos) text.resize(newline + 1);
    if (last_of_part) parts_[part_].end = done_ + text.size();
  }

  const Tokenizer& tokenizer_;
  std::vector<Part> parts_;
  uint64_t total_;
  const PrepareProgress& progress_;
  std::vector<TokenFileWriter> writers_;
  std::vector<uint32_t> tokens_;
  size_t part_ = 0;
  uint64_t done_ = 0;  // input bytes, over all inputs
};

Status bad_split(const std::string& text, const std::string& why) {
  return Status(Code::kInvalidArgument,
                "split '" + text + "' " + why + "; write it like train=0.95,validation=0.05.");
}

}  // namespace

Result<std::vector<std::pair<std::string, double>>> parse_split(const std::string& text) {
  std::vector<std::pair<std::string, double>> split;
  double sum = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string item = text.substr(at, comma - at);
    at = comma + 1;
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      return bad_split(text, "has the part '" + item + "' without a name or share");
    }
    const std::string name = item.substr(0, equals);
    const std::string number = item.substr(equals + 1);
    char* end = nullptr;
    const double share = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0' || !(share > 0) || share > 1) {
      return bad_split(text, "gives " + name + " the share '" + number +
                                 "', not a number above 0 "
                                 "and up to 1");
    }
    const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '-';
    });
    if (!plain) return bad_split(text, "has a name with other than letters, digits, _ and -");
    for (const auto& other : split) {
      if (other.first == name) return bad_split(text, "names " + name + " twice");
    }
    split.emplace_back(name, share);
    sum += share;
  }
  if (!split.empty() && std::abs(sum - 1) > kShareSumTolerance) {
    return bad_split(text, "adds up to " + std::to_string(sum) + ", not to 1");
  }
  return split;
}

Result<std::vector<PreparedFile>> prepare(const PrepareOptions& options,
                                          const PrepareProgress& progress) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                          make_tokenizer(options.tokenizer));
  CONVOY_ASSIGN_OR_RETURN(const std::vector<Input> inputs, open_inputs(options.inputs));
  uint64_t total = 0;
  for (const Input& input : inputs) total += input.bytes;
  CONVOY_ASSIGN_OR_RETURN(std::vector<Part> parts, plan_parts(options, total));
  Preparation preparation(*tokenizer, std::move(parts), total, progress);
  CONVOY_RETURN_IF_ERROR(preparation.run(inputs));
  return preparation.finish();
}

}  // namespace convoy::dataset
