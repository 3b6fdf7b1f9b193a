// safetensors files to import: headers are checked, tensors read from where they lie.
#include "ckpt/formats/safetensors.h"
#include <convoy/base/fd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;

struct Input {
  std::string path;
  std::string name;
  UniqueFd fd;
  SafetensorsHeader header;
};

Status read_at(const Input& input, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::pread(input.fd.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_status("cannot read " + input.path, errno);
    if (n == 0) {
      return {Code::kDataLoss, input.path + " ends at byte " + std::to_string(offset) +
                                   ": it was cut while it was being read."};
    }
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return ok_status();
}

Result<Input> open_input(const std::string& path) {
  Input input{path, fs::path(path).filename().string(), {}, {}};
  input.fd.reset(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info = {};
  if (!input.fd || ::fstat(input.fd.get(), &info) != 0) {
    return errno_status("cannot open " + path, errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return Status(Code::kInvalidArgument, path + " is no regular file.");
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  std::vector<std::byte> bytes(std::min<uint64_t>(size, 8));
  CONVOY_RETURN_IF_ERROR(read_at(input, 0, bytes));
  CONVOY_ASSIGN_OR_RETURN(const uint64_t header, safetensors_header_bytes(bytes, size, path));
  bytes.resize(header);
  CONVOY_RETURN_IF_ERROR(read_at(input, 0, bytes));
  CONVOY_ASSIGN_OR_RETURN(input.header, parse_safetensors_header(bytes, size, path));
  return input;
}

Result<std::map<std::string, std::string>> read_index(const std::string& path) {
  Input file{path, "", UniqueFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)), {}};
  struct stat info = {};
  if (!file.fd || ::fstat(file.fd.get(), &info) != 0) {
    return errno_status("cannot open " + path, errno);
  }
  if (static_cast<uint64_t>(info.st_size) > kSafetensorsHeaderBytesMax) {
    return Status(Code::kDataLoss, path + " is too large for an index of safetensors files.");
  }
  std::vector<std::byte> bytes(static_cast<size_t>(info.st_size));
  CONVOY_RETURN_IF_ERROR(read_at(file, 0, bytes));
  return parse_safetensors_index(bytes, path);
}

// The index and the files must tell the same.
Status check_index(const std::map<std::string, std::string>& index,
                   const std::vector<Input>& inputs, const std::string& path) {
  size_t found = 0;
  for (const Input& input : inputs) {
    for (const SafetensorsTensor& tensor : input.header.tensors) {
      const auto entry = index.find(tensor.info.name);
      if (entry == index.end() || entry->second != input.name) {
        return {Code::kDataLoss, path + " does not say that tensor " + tensor.info.name +
                                     " lies in " + input.name + "."};
      }
      ++found;
    }
  }
  if (found == index.size()) return ok_status();
  return {Code::kDataLoss, path + " names " + std::to_string(index.size()) +
                               " tensors, but its files hold " + std::to_string(found) +
                               " of them."};
}

Result<std::vector<Input>> open_indexed(const std::string& folder, const std::string& index_path) {
  CONVOY_ASSIGN_OR_RETURN(const auto index, read_index(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, name] : index) names.insert(name);
  if (names.size() > kSafetensorsShardsMax) {
    return Status(Code::kDataLoss, index_path + " names too many files.");
  }
  std::vector<Input> inputs;
  for (const std::string& name : names) {
    CONVOY_ASSIGN_OR_RETURN(Input input, open_input(folder + "/" + name));
    inputs.push_back(std::move(input));
  }
  CONVOY_RETURN_IF_ERROR(check_index(index, inputs, index_path));
  return inputs;
}

// A folder without an index must hold one file.
Result<std::string> only_file(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(kSafetensorsSuffix) && is_plain_name(name)) names.push_back(name);
  }
  if (error) {
    return Status(Code::kInvalidArgument, "cannot list " + folder + ": " + error.message() + ".");
  }
  if (names.size() == 1) return folder + "/" + names[0];
  if (names.empty()) {
    return Status(Code::kNotFound, "folder " + folder + " holds no safetensors file.");
  }
  return Status(Code::kInvalidArgument,
                "folder " + folder + " holds " + std::to_string(names.size()) +
                    " safetensors files, but no " + std::string(kSafetensorsIndexName) +
                    " that ties them together; give one of the files.");
}

Result<std::vector<Input>> open_inputs(const std::string& path) {
  std::error_code error;
  std::string file = path;
  if (fs::is_directory(path, error)) {
    const std::string index = path + "/" + std::string(kSafetensorsIndexName);
    if (fs::exists(index, error)) return open_indexed(path, index);
    CONVOY_ASSIGN_OR_RETURN(file, only_file(path));
  } else if (path.ends_with(kSafetensorsIndexName)) {
    const std::string parent = fs::path(path).parent_path().string();
    return open_indexed(parent.empty() ? "." : parent, path);
  }
  CONVOY_ASSIGN_OR_RETURN(Input input, open_input(file));
  std::vector<Input> inputs;
  inputs.push_back(std::move(input));
  return inputs;
}

// Names over all files.
Status check_inputs(const std::vector<Input>& inputs, const std::string& path) {
  std::set<std::string_view> names;
  for (const Input& input : inputs) {
    for (const SafetensorsTensor& tensor : input.header.tensors) {
      if (names.insert(tensor.info.name).second) continue;
      return {Code::kDataLoss,
              "tensor " + tensor.info.name + " lies in two files of " + path + "."};
    }
  }
  return ok_status();
}

class SafetensorsSource final : public ImportSource {
 public:
  explicit SafetensorsSource(std::vector<Input> inputs) : inputs_(std::move(inputs)) {
    for (const Input& input : inputs_) {
      files_.push_back(input.path);
      for (const SafetensorsTensor& tensor : input.header.tensors) {
        tensors_.push_back(tensor.info);
        if (tensor.begin == tensor.end) continue;  // an empty tensor has no piece
        pieces_.push_back({static_cast<uint32_t>(tensors_.size() - 1),
                           std::vector<int64_t>(tensor.info.shape.size(), 0), tensor.info.shape});
        origins_.emplace_back(&input, input.header.data_offset + tensor.begin);
      }
    }
  }
  Status read(size_t piece, uint64_t offset, std::span<std::byte> out) override {
    const auto& [input, begin] = origins_[piece];
    return read_at(*input, begin + offset, out);
  }

 private:
  const std::vector<Input> inputs_;
  std::vector<std::pair<const Input*, uint64_t>> origins_;  // by piece
};

}  // namespace

Result<std::unique_ptr<ImportSource>> open_safetensors(const std::string& path) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<Input> inputs, open_inputs(path));
  CONVOY_RETURN_IF_ERROR(check_inputs(inputs, path));
  return std::unique_ptr<ImportSource>(std::make_unique<SafetensorsSource>(std::move(inputs)));
}

}  // namespace convoy::ckpt
