#include "ckpt/formats/torch_import.h"

#include <convoy/ckpt/import.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

namespace convoy::ckpt {
namespace {

// Views of the same memory may make a file larger, within reason.
constexpr uint64_t kGrowthMax = 64;
constexpr uint64_t kGrowthFree = uint64_t{1} << 30;

class TorchSource final : public ImportSource {
 public:
  static Result<std::unique_ptr<ImportSource>> open(const std::string& path);
  Status read(size_t piece, uint64_t offset, std::span<std::byte> out) override;

 private:
  explicit TorchSource(TorchZip zip) : zip_(std::move(zip)) {}
  Status take(const TorchState& state);
  void add(const std::string& name, Dtype dtype, std::vector<int64_t> shape);

  TorchZip zip_;
  // By piece: one of the two.
  struct Origin {
    std::optional<TorchTensor> tensor;
    std::string value;
  };
  std::vector<Origin> origins_;
  size_t open_ = SIZE_MAX;  // the piece of `reader_`
  std::optional<TorchTensorReader> reader_;
};

void TorchSource::add(const std::string& name, Dtype dtype, std::vector<int64_t> shape) {
  tensors_.push_back({name, dtype, shape});
  if (std::ranges::find(shape, 0) != shape.end()) return;
  pieces_.push_back({static_cast<uint32_t>(tensors_.size() - 1),
                     std::vector<int64_t>(shape.size(), 0), std::move(shape)});
}

Status TorchSource::take(const TorchState& state) {
  for (const auto& [name, tensor] : state.tensors) {
    CONVOY_RETURN_IF_ERROR(TorchTensorReader::create(zip_, tensor).status().with_context(name));
    add(name, tensor.dtype, tensor.shape);
    if (pieces_.size() > origins_.size()) origins_.push_back({tensor, ""});
  }
  auto values = state.values;
  values.emplace_back(kPathsName, paths_value(state.paths));
  for (auto& [name, value] : values) {
    add(name, Dtype::kBytes, {static_cast<int64_t>(value.size())});
    origins_.push_back({{}, std::move(value)});
  }
  return ok_status();
}

Result<std::unique_ptr<ImportSource>> TorchSource::open(const std::string& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) return Status(Code::kNotFound, "cannot open " + path + ": " + error.message() + ".");
  CONVOY_ASSIGN_OR_RETURN(TorchZip zip, TorchZip::open(path, 0, 0, path));
  CONVOY_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, zip.pickle());
  CONVOY_ASSIGN_OR_RETURN(const Pickle pickle, parse_pickle(std::move(bytes), path));
  CONVOY_ASSIGN_OR_RETURN(const TorchState state, torch_state(pickle, path));
  std::unique_ptr<TorchSource> source(new TorchSource(std::move(zip)));
  source->files_ = {path};
  CONVOY_RETURN_IF_ERROR(source->take(state));
  uint64_t total = 0;
  for (const auto& [name, tensor] : state.tensors) {
    total += tensor.elements() * dtype_bytes(tensor.dtype);
    if (total <= kGrowthFree || total / kGrowthMax <= size) continue;
    return Status(Code::kInvalidArgument,
                  path + " has views of the same memory that would become many times its " +
                      std::to_string(size) +
                      " bytes; save them as tensors of their own (.clone()).");
  }
  return std::unique_ptr<ImportSource>(std::move(source));
}

Status TorchSource::read(size_t piece, uint64_t offset, std::span<std::byte> out) {
  const Origin& origin = origins_[piece];
  if (!origin.tensor) {
    std::memcpy(out.data(), origin.value.data() + offset, out.size());
    return ok_status();
  }
  if (open_ != piece) {
    CONVOY_ASSIGN_OR_RETURN(reader_, TorchTensorReader::create(zip_, *origin.tensor));
    open_ = piece;
  }
  return reader_->read(offset, out).with_context(tensors_[pieces_[piece].tensor].name);
}

}  // namespace

Result<TorchTensorReader> TorchTensorReader::create(TorchZip& zip, const TorchTensor& tensor) {
  if (tensor.elements() == 0) return TorchTensorReader(zip, tensor);
  CONVOY_ASSIGN_OR_RETURN(const uint64_t size, zip.size_of(tensor.key));
  const uint64_t element = dtype_bytes(tensor.dtype);
  if (size / element < tensor.offset + tensor.span()) {
    return Status(Code::kDataLoss, zip.what() + " is cut or damaged: record data/" + tensor.key +
                                       " has " + std::to_string(size) +
                                       " bytes, too few for its tensor.");
  }
  if (!tensor.contiguous() &&
      std::max(tensor.span(), tensor.elements()) > kStridedBytesMax / element) {
    return Status(Code::kInvalidArgument, zip.what() +
                                              " has a tensor above 1 GiB whose elements don't lie "
                                              "densely; save it as .contiguous().");
  }
  return TorchTensorReader(zip, tensor);
}

// The whole tensor, dense.
Status TorchTensorReader::gather() {
  const TorchTensor& t = *tensor_;
  const uint64_t element = dtype_bytes(t.dtype);
  std::vector<std::byte> raw(t.span() * element);
  CONVOY_RETURN_IF_ERROR(zip_->read(t.key, t.offset * element, raw));
  dense_.resize(t.elements() * element);
  std::vector<int64_t> index(t.shape.size(), 0);
  for (uint64_t i = 0; i < dense_.size(); i += element) {
    uint64_t from = 0;
    for (size_t d = 0; d < index.size(); ++d)
      from += static_cast<uint64_t>(index[d] * t.strides[d]);
    std::memcpy(dense_.data() + i, raw.data() + from * element, element);
    for (size_t d = index.size(); d > 0 && ++index[d - 1] == t.shape[d - 1]; --d) index[d - 1] = 0;
  }
  return ok_status();
}

Status TorchTensorReader::read(uint64_t offset, std::span<std::byte> out) {
  if (tensor_->contiguous()) {
    return zip_->read(tensor_->key, tensor_->offset * dtype_bytes(tensor_->dtype) + offset, out);
  }
  if (dense_.empty()) CONVOY_RETURN_IF_ERROR(gather());
  std::memcpy(out.data(), dense_.data() + offset, out.size());
  return ok_status();
}

std::string paths_value(const std::map<std::string, std::string>& paths) {
  nlohmann::json out = nlohmann::json::object();
  for (const auto& [name, path] : paths) out[name] = nlohmann::json::parse(path);
  return std::string(kValueMark) +
         out.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

Result<std::unique_ptr<ImportSource>> open_torch_file(const std::string& path) {
  return TorchSource::open(path);
}

}  // namespace convoy::ckpt
