// safetensors files as a step: their tensors, one behind the other, are the stream of one rank.
#include "ckpt/formats/chunk_writer.h"
#include "ckpt/formats/safetensors.h"
#include "ckpt/formats/tensor_reader.h"
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
constexpr uint64_t kReadBytes = uint64_t{4} << 20;  // at a time
constexpr uint64_t kStreamBytesMax = kChunksMax * kChunkBytes;

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

Status copy_tensor(const Input& input, const SafetensorsTensor& tensor, ChunkWriter& writer,
                   const std::function<bool(uint64_t)>& progress) {
  std::vector<std::byte> buffer;
  for (uint64_t at = tensor.begin; at < tensor.end; at += buffer.size()) {
    buffer.resize(std::min(kReadBytes, tensor.end - at));
    CONVOY_RETURN_IF_ERROR(read_at(input, input.header.data_offset + at, buffer));
    CONVOY_RETURN_IF_ERROR(writer.append(buffer));
    if (!progress(buffer.size())) return {Code::kAborted, "the import was stopped"};
  }
  return ok_status();
}

// Sizes and names over all files.
Status check_inputs(const std::vector<Input>& inputs, const std::string& path) {
  std::set<std::string_view> names;
  uint64_t bytes = 0;
  for (const Input& input : inputs) {
    for (const SafetensorsTensor& tensor : input.header.tensors) {
      if (!names.insert(tensor.info.name).second) {
        return {Code::kDataLoss,
                "tensor " + tensor.info.name + " lies in two files of " + path + "."};
      }
    }
    bytes += std::min(input.header.data_bytes, kStreamBytesMax);
  }
  if (names.size() <= kTensorsMax &&
      bytes <= kStreamBytesMax - names.size() * ChunkWriter::kAlignment) {
    return ok_status();
  }
  return {Code::kInvalidArgument, path + " has too many tensors or bytes for one import: at most " +
                                      std::to_string(kTensorsMax) + " and 4 TiB."};
}

Status write_stream(const std::vector<Input>& inputs, ChunkWriter& writer, Part& part,
                    const std::function<bool(uint64_t)>& progress) {
  for (const Input& input : inputs) {
    for (const SafetensorsTensor& tensor : input.header.tensors) {
      const auto index = static_cast<uint32_t>(part.tensors.size());
      part.tensors.push_back(tensor.info);
      if (tensor.begin == tensor.end) continue;  // an empty tensor has no piece
      CONVOY_RETURN_IF_ERROR(writer.align());
      part.streams[0].pieces.push_back({index, std::vector<int64_t>(tensor.info.shape.size(), 0),
                                        tensor.info.shape, part.streams[0].bytes});
      CONVOY_RETURN_IF_ERROR(copy_tensor(input, tensor, writer, progress));
    }
  }
  return writer.finish();
}

}  // namespace

struct SafetensorsSource::Impl {
  std::vector<Input> inputs;
  std::vector<std::string> files;
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

SafetensorsSource::SafetensorsSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsSource::SafetensorsSource(SafetensorsSource&&) noexcept = default;
SafetensorsSource& SafetensorsSource::operator=(SafetensorsSource&&) noexcept = default;
SafetensorsSource::~SafetensorsSource() = default;
const std::vector<std::string>& SafetensorsSource::files() const {
  return impl_->files;
}
uint64_t SafetensorsSource::tensors() const {
  return impl_->tensors;
}
uint64_t SafetensorsSource::bytes() const {
  return impl_->bytes;
}

Result<SafetensorsSource> SafetensorsSource::open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  CONVOY_ASSIGN_OR_RETURN(impl->inputs, open_inputs(path));
  CONVOY_RETURN_IF_ERROR(check_inputs(impl->inputs, path));
  for (const Input& input : impl->inputs) {
    impl->files.push_back(input.path);
    impl->tensors += input.header.tensors.size();
    impl->bytes += input.header.data_bytes;
  }
  return SafetensorsSource(std::move(impl));
}

Status import_safetensors(const SafetensorsSource& source, Store& store, Catalog& catalog,
                          uint64_t step, const ByteProgress& progress) {
  CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> owner, catalog.owner());
  Part part{step, 0, owner ? owner->generation : 0, {}, {}, {}};
  part.streams.emplace_back();
  ChunkWriter writer(store, catalog, part);
  uint64_t done = 0;
  CONVOY_RETURN_IF_ERROR(write_stream(source.impl_->inputs, writer, part, [&](uint64_t bytes) {
    done += bytes;
    return !progress || progress(done, source.bytes());
  }));
  Commit head;
  head.step = step;
  head.world_size = 1;
  CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
  CommitBuilder builder(std::move(head));
  CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  return catalog.commit(std::move(builder).finish());
}

}  // namespace convoy::ckpt
