// Each chunk of a tensor is a piece. It lies in a zip file of its own within the .distcp file, or,
// where DCP wrote safetensors, under its name in the one that begins there.
#include "ckpt/formats/dcp_metadata.h"
#include "ckpt/formats/torch_import.h"
#include <convoy/base/fd.h>
#include <convoy/ckpt/import.h>
#include <convoy/ckpt/safetensors.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

struct RawFile {
  std::string path;
  UniqueFd fd;
  uint64_t size = 0;

  static Result<RawFile> open(const std::string& path) {
    RawFile file{path, UniqueFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)), 0};
    struct stat info = {};
    if (!file.fd || ::fstat(file.fd.get(), &info) != 0)
      return errno_status("cannot open " + path, errno);
    if (!S_ISREG(info.st_mode))
      return Status(Code::kInvalidArgument, path + " is no regular file.");
    file.size = static_cast<uint64_t>(info.st_size);
    return file;
  }
  Status read(uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      const ssize_t n = ::pread(fd.get(), out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_status("cannot read " + path, errno);
      if (n == 0)
        return {Code::kDataLoss,
                path + " ends at byte " + std::to_string(offset) + "; more was said to be there."};
      out = out.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return ok_status();
  }
};

class DcpSource final : public ImportSource {
 public:
  static Result<std::unique_ptr<ImportSource>> open(const std::string& folder);
  Status read(size_t piece, uint64_t offset, std::span<std::byte> out) override;

 private:
  // Where a piece comes from: a value that has been read already, bytes of a file, or a zip file.
  struct Origin {
    std::string value;
    std::string file;
    uint64_t offset = 0, bytes = 0;
    bool raw = false;
  };
  struct OpenZip {
    TorchZip zip;
    TorchTensor tensor;
    std::optional<TorchTensorReader> reader;
  };

  Status add_tensor(const DcpTensor& tensor);
  Status add_value(const DcpTensor& tensor);
  void add_text(const std::string& name, std::string text);
  Result<Origin> find(const DcpTensor& tensor, const DcpItem& item);
  Result<const SafetensorsHeader*> header(const RawFile& file, uint64_t offset);
  Result<const RawFile*> file(const std::string& name);
  Result<std::unique_ptr<OpenZip>> open_zip(const Origin& origin, const ImportPiece& piece);
  Result<TorchZip> zip_at(const std::string& name, uint64_t offset, uint64_t bytes,
                          const std::string& what);

  std::string folder_;
  std::map<std::string, RawFile> opened_;
  std::map<std::pair<std::string, uint64_t>, SafetensorsHeader> headers_;
  std::vector<Origin> origins_;  // by piece
  size_t current_ = SIZE_MAX;    // the piece of zip_
  std::unique_ptr<OpenZip> zip_;
};

Result<const RawFile*> DcpSource::file(const std::string& name) {
  const auto found = opened_.find(name);
  if (found != opened_.end()) return &found->second;
  CONVOY_ASSIGN_OR_RETURN(RawFile made, RawFile::open(folder_ + "/" + name));
  files_.push_back(made.path);
  return &opened_.emplace(name, std::move(made)).first->second;
}

Result<TorchZip> DcpSource::zip_at(const std::string& name, uint64_t offset, uint64_t bytes,
                                   const std::string& what) {
  return TorchZip::open(
      folder_ + "/" + name, offset, bytes,
      folder_ + "/" + name + " at byte " + std::to_string(offset) + " (" + what + ")");
}

Result<const SafetensorsHeader*> DcpSource::header(const RawFile& file, uint64_t offset) {
  const auto found = headers_.find({file.path, offset});
  if (found != headers_.end()) return &found->second;
  const uint64_t left = file.size - offset;
  std::vector<std::byte> bytes(std::min<uint64_t>(8, left));
  CONVOY_RETURN_IF_ERROR(file.read(offset, bytes));
  CONVOY_ASSIGN_OR_RETURN(const uint64_t size, safetensors_header_bytes(bytes, left, file.path));
  bytes.resize(size);
  CONVOY_RETURN_IF_ERROR(file.read(offset, bytes));
  CONVOY_ASSIGN_OR_RETURN(SafetensorsHeader made, parse_safetensors_header(bytes, left, file.path));
  return &headers_.emplace(std::pair(file.path, offset), std::move(made)).first->second;
}

Result<DcpSource::Origin> DcpSource::find(const DcpTensor& tensor, const DcpItem& item) {
  CONVOY_ASSIGN_OR_RETURN(const RawFile* where, file(item.file));
  if (item.offset > where->size || where->size - item.offset < 4) {
    return Status(Code::kDataLoss, where->path + " is cut: tensor " + tensor.info.name +
                                       " should be at byte " + std::to_string(item.offset) + ".");
  }
  std::array<std::byte, 4> magic{};
  CONVOY_RETURN_IF_ERROR(where->read(item.offset, magic));
  if (std::memcmp(magic.data(), "PK\3\4", 4) == 0) {
    if (item.bytes > where->size - item.offset) {
      return Status(Code::kDataLoss,
                    where->path + " is cut: tensor " + tensor.info.name + " does not end in it.");
    }
    return Origin{"", item.file, item.offset, item.bytes, false};
  }
  CONVOY_ASSIGN_OR_RETURN(const SafetensorsHeader* all, header(*where, item.offset));
  for (const SafetensorsTensor& found : all->tensors) {
    if (found.info.name != tensor.info.name) continue;
    if (found.info.dtype != tensor.info.dtype || found.info.shape != item.extent) break;
    return Origin{"", item.file, item.offset + all->data_offset + found.begin,
                  found.end - found.begin, true};
  }
  return Status(Code::kDataLoss, where->path + " does not hold tensor " + tensor.info.name +
                                     " as .metadata tells it.");
}

void DcpSource::add_text(const std::string& name, std::string text) {
  tensors_.push_back({name, Dtype::kBytes, {static_cast<int64_t>(text.size())}});
  pieces_.push_back(
      {static_cast<uint32_t>(tensors_.size() - 1), {0}, {static_cast<int64_t>(text.size())}});
  origins_.push_back({std::move(text), "", 0, 0, false});
}

// A value that torch has pickled into a zip file.
Status DcpSource::add_value(const DcpTensor& tensor) {
  const DcpItem& item = tensor.items[0];
  CONVOY_RETURN_IF_ERROR(file(item.file).status());
  CONVOY_ASSIGN_OR_RETURN(TorchZip zip,
                          zip_at(item.file, item.offset, item.bytes, tensor.info.name));
  CONVOY_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, zip.pickle());
  CONVOY_ASSIGN_OR_RETURN(const Pickle pickle, parse_pickle(std::move(bytes), zip.what()));
  CONVOY_ASSIGN_OR_RETURN(std::string value, torch_value(pickle, pickle.root(), zip.what()));
  add_text(tensor.info.name, std::move(value));
  return ok_status();
}

Status DcpSource::add_tensor(const DcpTensor& tensor) {
  if (tensor.info.dtype == Dtype::kBytes) return add_value(tensor);
  tensors_.push_back(tensor.info);
  for (const DcpItem& item : tensor.items) {
    CONVOY_ASSIGN_OR_RETURN(Origin origin, find(tensor, item));
    pieces_.push_back({static_cast<uint32_t>(tensors_.size() - 1), item.begin, item.extent});
    origins_.push_back(std::move(origin));
  }
  return ok_status();
}

Result<std::unique_ptr<ImportSource>> DcpSource::open(const std::string& folder) {
  const std::string path = folder + "/" + kDcpMetadataName;
  CONVOY_ASSIGN_OR_RETURN(const RawFile metadata, RawFile::open(path));
  if (metadata.size > kPickleBytesMax) return Status(Code::kDataLoss, path + " is too large.");
  std::vector<std::byte> bytes(metadata.size);
  CONVOY_RETURN_IF_ERROR(metadata.read(0, bytes));
  CONVOY_ASSIGN_OR_RETURN(const DcpMetadata read, parse_dcp_metadata(std::move(bytes), path));
  std::unique_ptr<DcpSource> source(new DcpSource);
  source->folder_ = folder;
  source->files_ = {path};
  for (const DcpTensor& tensor : read.tensors) {
    if (tensor.info.name == kPathsName)
      return Status(Code::kInvalidArgument, path + " uses the name " + tensor.info.name + ".");
    CONVOY_RETURN_IF_ERROR(source->add_tensor(tensor));
  }
  if (!read.paths.empty()) source->add_text(std::string(kPathsName), paths_value(read.paths));
  return std::unique_ptr<ImportSource>(std::move(source));
}

Result<std::unique_ptr<DcpSource::OpenZip>> DcpSource::open_zip(const Origin& origin,
                                                                const ImportPiece& piece) {
  const TensorInfo& info = tensors_[piece.tensor];
  CONVOY_ASSIGN_OR_RETURN(TorchZip zip,
                          zip_at(origin.file, origin.offset, origin.bytes, info.name));
  CONVOY_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, zip.pickle());
  CONVOY_ASSIGN_OR_RETURN(const Pickle pickle, parse_pickle(std::move(bytes), zip.what()));
  CONVOY_ASSIGN_OR_RETURN(TorchTensor tensor, torch_tensor(pickle, pickle.root(), zip.what()));
  if (tensor.dtype != info.dtype || tensor.shape != piece.extent) {
    return Status(Code::kDataLoss,
                  zip.what() + " has another dtype or shape than .metadata tells.");
  }
  auto made = std::make_unique<OpenZip>(OpenZip{std::move(zip), std::move(tensor), {}});
  CONVOY_ASSIGN_OR_RETURN(made->reader, TorchTensorReader::create(made->zip, made->tensor));
  return made;
}

Status DcpSource::read(size_t piece, uint64_t offset, std::span<std::byte> out) {
  const Origin& origin = origins_[piece];
  if (origin.file.empty()) {
    std::memcpy(out.data(), origin.value.data() + offset, out.size());
    return ok_status();
  }
  if (origin.raw) return opened_.at(origin.file).read(origin.offset + offset, out);
  if (current_ != piece) {
    zip_.reset();
    current_ = SIZE_MAX;
    CONVOY_ASSIGN_OR_RETURN(zip_, open_zip(origin, pieces_[piece]));
    current_ = piece;
  }
  return zip_->reader->read(offset, out);
}

}  // namespace

Result<std::unique_ptr<ImportSource>> open_dcp_folder(const std::string& path) {
  return DcpSource::open(path);
}

}  // namespace convoy::ckpt
