#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/import.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Hugging Face's safetensors files: whole tensors behind a JSON header; several files of a model
// are tied together by `model.safetensors.index.json`. Exported from a step of a checkpoint folder
// and imported into one, with bounded memory.
namespace convoy::ckpt {

// ---- the header

// Limits of what is read and written.
inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;  // the format's own
inline constexpr uint64_t kSafetensorsMetadataMax = 1U << 16;        // entries
inline constexpr uint64_t kSafetensorsShardsMax = 1U << 16;          // files of a model

// A tensor of a file: bytes [begin, end) behind the header.
struct SafetensorsTensor {
  TensorInfo info;
  uint64_t begin = 0;
  uint64_t end = 0;

  bool operator==(const SafetensorsTensor&) const = default;
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // ascending by begin; dense: no gap, no overlap
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the first tensor's bytes in the file
  uint64_t data_bytes = 0;

  bool operator==(const SafetensorsHeader&) const = default;
};

// "BF16"; empty for a dtype that safetensors has no word for (bytes, complex128).
std::string_view safetensors_dtype(Dtype dtype);

// How many bytes the header has, its length field included, from the file's first 8 bytes.
// kDataLoss if that can't be in a file of `file_bytes`.
Result<uint64_t> safetensors_header_bytes(std::span<const std::byte> first8, uint64_t file_bytes,
                                          const std::string& path);
// `bytes` is the file's beginning, as many as safetensors_header_bytes() said. Nothing in them is
// believed; memory stays within a small multiple of their number. kDataLoss, saying what is wrong:
// no JSON of the right form, a name twice, a dtype that isn't known, offsets that overlap, leave
// gaps, lie outside of the file or don't fit the shape. `path` is for messages. Pure.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> bytes,
                                                   uint64_t file_bytes, const std::string& path);
// The file's beginning, for tensors of these infos one behind the other in this order. Tensors of
// wide elements must come first, so that all are aligned. kInvalidArgument: a name twice, one that
// is not UTF-8, or a dtype that safetensors does not have.
Result<std::vector<std::byte>> encode_safetensors_header(
    std::span<const TensorInfo> tensors, const std::map<std::string, std::string>& metadata);

// The file names of a `model.safetensors.index.json`, and which tensor lies where. kDataLoss if it
// isn't one, or names a file outside of its folder.
Result<std::map<std::string, std::string>> parse_safetensors_index(std::span<const std::byte> bytes,
                                                                   const std::string& path);

// ---- whole folders

struct SafetensorsExport {
  std::string folder;                            // is made; must be empty if it is there
  uint64_t shard_bytes = 5'000'000'000;          // a file is closed before it exceeds this
  std::optional<Dtype> dtype;                    // float tensors become this float type
  std::function<bool(const std::string&)> want;  // by name; default: all
};

struct SafetensorsFile {
  std::string name;
  uint64_t tensors = 0;
  uint64_t bytes = 0;
};

struct Exported {
  std::vector<SafetensorsFile> files;  // the index, if there is one, not counted
  uint64_t tensors = 0;
  uint64_t bytes = 0;
  std::vector<TensorInfo> left_out;  // of dtype bytes, for which safetensors has no word
};

// Writes the tensors of a committed step as safetensors. All checksums are verified on the way. The
// folder appears at once and whole, when all is on disk; until then the work lies in
// `FOLDER.partial`, which the next export into the same folder replaces.
// kDataLoss if bytes are damaged or missing (naming the tensor); kInvalidArgument if nothing is
// wanted or a complex128 tensor is; kUnavailable if another export is writing the same folder.
Result<Exported> export_safetensors(Store& store, const Commit& commit,
                                    const SafetensorsExport& options,
                                    const ByteProgress& progress = {});

// safetensors files to import: a file, or a folder with an index or a single file. Headers are read
// and checked; the files stay open. kNotFound; kDataLoss if a file or the index is not what it
// should be, or two files have the same tensor; kInvalidArgument if it isn't clear which files are
// meant.
Result<std::unique_ptr<ImportSource>> open_safetensors(const std::string& path);

}  // namespace convoy::ckpt
