#pragma once

#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The zip files of torch.save(): records "archive/data.pkl", "archive/data/0" …, all stored as they
// are.
namespace convoy::ckpt {

class TorchZip {
 public:
  // Bytes [offset, offset + bytes) of the file; `bytes` 0: up to its end. `what` is for messages.
  // kDataLoss: no such zip file; kInvalidArgument: of a byte order that isn't little.
  static Result<TorchZip> open(const std::string& path, uint64_t offset, uint64_t bytes,
                               const std::string& what);
  // The same in memory, which must stay.
  static Result<TorchZip> open(std::span<const std::byte> bytes, const std::string& what);
  TorchZip(TorchZip&&) noexcept;
  TorchZip& operator=(TorchZip&&) noexcept;
  ~TorchZip();

  const std::string& what() const;
  // The size of record "data/<key>"; kDataLoss if there is none, or it is not stored as it is.
  Result<uint64_t> size_of(std::string_view key) const;
  // Bytes of that record from `offset`. Fastest front to back.
  Status read(std::string_view key, uint64_t offset, std::span<std::byte> out);
  // The whole record "data.pkl".
  Result<std::vector<std::byte>> pickle();

 private:
  struct Impl;
  explicit TorchZip(std::unique_ptr<Impl> impl);
  static Result<TorchZip> use(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::ckpt
