#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

// Steps made of other programs' files. Nothing in them is believed and nothing in them is executed:
// pickles are read as data, by a reader that knows the few things that torch's own files hold.
namespace convoy::ckpt {

// (bytes done, bytes in all); returning false stops the work with kAborted.
using ByteProgress = std::function<bool(uint64_t, uint64_t)>;

// A box of a tensor that can be read.
struct ImportPiece {
  uint32_t tensor = 0;  // index into tensors()
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;  // ≥ 1 each
};

// Files to import. They are open and checked; their tensors' bytes are read by import_step().
class ImportSource {
 public:
  virtual ~ImportSource() = default;
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::vector<ImportPiece>& pieces() const { return pieces_; }
  const std::vector<std::string>& files() const { return files_; }
  uint64_t bytes() const;  // of all pieces

  // Bytes of a piece, dense and row-major, from `offset`; asked for front to back.
  virtual Status read(size_t piece, uint64_t offset, std::span<std::byte> out) = 0;

 protected:
  std::vector<TensorInfo> tensors_;
  std::vector<ImportPiece> pieces_;
  std::vector<std::string> files_;
};

// A file of torch.save() in its zip format (torch 1.6 or later) that holds a state dict: nested
// dicts, and lists, of tensors and plain values. Names are keys joined by dots; values become what
// convoy.checkpoint reads. kNotFound; kDataLoss: not such a file, damaged; kInvalidArgument, naming
// it: something that is not plain data, such as an object of a class, or that checkpoints don't
// hold.
Result<std::unique_ptr<ImportSource>> open_torch_file(const std::string& path);

// A folder of torch.distributed.checkpoint: .metadata and the .distcp files that it names, with
// tensors as torch.save() or as safetensors write them. Fails as open_torch_file().
Result<std::unique_ptr<ImportSource>> open_dcp_folder(const std::string& path);

// Writes the tensors as step `step` of the folder that `catalog` has taken over, as those of a
// single rank, and commits it. If it fails, nothing is committed.
Status import_step(ImportSource& source, Store& store, Catalog& catalog, uint64_t step,
                   const ByteProgress& progress = {});

}  // namespace convoy::ckpt
