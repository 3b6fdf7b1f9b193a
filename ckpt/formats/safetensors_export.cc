// A step's tensors as safetensors files. Everything is written into a folder beside the target,
// which takes its name when all of it is on disk.
#include "ckpt/formats/convert.h"
#include "ckpt/formats/safetensors.h"
#include "ckpt/formats/tensor_reader.h"
#include "ckpt/formats/work_folder.h"
#include <convoy/base/atomic_file.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <tuple>

namespace convoy::ckpt {
namespace {

// A tensor and what it becomes.
struct Planned {
  const TensorEntry* entry = nullptr;
  TensorInfo info;
};
using Shard = std::vector<Planned>;

bool is_ours(const std::string& name) {
  return name == kSafetensorsIndexName ||
         (name.starts_with("model") && name.ends_with(kSafetensorsSuffix)) ||
         name.starts_with(".model");
}

Result<std::vector<Planned>> choose(const Commit& commit, const SafetensorsExport& options,
                                    Exported& out) {
  std::vector<Planned> chosen;
  for (const TensorEntry& entry : commit.tensors) {
    if (options.want && !options.want(entry.info.name)) continue;
    if (entry.info.dtype == Dtype::kBytes) {
      out.left_out.push_back(entry.info);
      continue;
    }
    Planned planned{&entry, entry.info};
    if (options.dtype && is_float(entry.info.dtype)) planned.info.dtype = *options.dtype;
    if (safetensors_dtype(planned.info.dtype).empty()) {
      return Status(Code::kInvalidArgument, "tensor " + entry.info.name + " is " +
                                                dtype_name(entry.info.dtype) +
                                                ", for which safetensors has no word; choose "
                                                "others with --tensor.");
    }
    chosen.push_back(std::move(planned));
  }
  if (chosen.empty()) {
    return Status(Code::kInvalidArgument,
                  "step " + std::to_string(commit.step) +
                      " has no tensor to export by that name; `convoy ckpt inspect` lists them.");
  }
  // Wide elements first, so that all are aligned.
  std::ranges::stable_sort(chosen, [](const Planned& a, const Planned& b) {
    const uint32_t wide_a = dtype_bytes(a.info.dtype);
    const uint32_t wide_b = dtype_bytes(b.info.dtype);
    return wide_a != wide_b ? wide_a > wide_b : a.info.name < b.info.name;
  });
  return chosen;
}

std::vector<Shard> split(std::vector<Planned> chosen, uint64_t shard_bytes) {
  std::vector<Shard> shards;
  uint64_t bytes = 0;
  for (Planned& planned : chosen) {
    const uint64_t more = tensor_bytes(planned.info);
    if (shards.empty() || (bytes + more > shard_bytes && bytes > 0)) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(std::move(planned));
  }
  return shards;
}

// Writes one step after the other's tensors.
class Writer {
 public:
  Writer(Store& store, const Commit& commit, const ByteProgress& progress, uint64_t total)
      : commit_(commit), reader_(store, commit), progress_(progress), total_(total) {}

  Result<SafetensorsFile> write(const Shard& shard, const std::string& folder,
                                const std::string& name) {
    std::vector<TensorInfo> infos;
    for (const Planned& planned : shard) infos.push_back(planned.info);
    CONVOY_ASSIGN_OR_RETURN(
        const auto header,
        encode_safetensors_header(infos, {{"format", "pt"},
                                          {"convoy.job", commit_.job},
                                          {"convoy.step", std::to_string(commit_.step)}}));
    CONVOY_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(folder + "/" + name));
    CONVOY_RETURN_IF_ERROR(file.append(header));
    for (const Planned& planned : shard) CONVOY_RETURN_IF_ERROR(write_tensor(planned, file));
    const uint64_t bytes = file.size();
    CONVOY_RETURN_IF_ERROR(file.commit());
    return SafetensorsFile{name, shard.size(), bytes};
  }

 private:
  Status write_tensor(const Planned& planned, AtomicFile& file) {
    const TensorInfo& from = planned.entry->info;
    const uint64_t element = dtype_bytes(from.dtype);
    const int64_t count = tensor_elements(from);
    const auto most = static_cast<int64_t>(kWindowBytes / element);
    for (int64_t first = 0; first < count; first += most) {
      const auto n = static_cast<uint64_t>(std::min(most, count - first));
      raw_.resize(n * element);
      CONVOY_RETURN_IF_ERROR(reader_.read(*planned.entry, first, raw_));
      if (planned.info.dtype == from.dtype) {
        CONVOY_RETURN_IF_ERROR(file.append(raw_));
      } else {
        converted_.resize(n * dtype_bytes(planned.info.dtype));
        convert(from.dtype, raw_, planned.info.dtype, converted_);
        CONVOY_RETURN_IF_ERROR(file.append(converted_));
      }
      done_ += raw_.size();
      if (progress_ && !progress_(done_, total_)) return {Code::kAborted, "the export was stopped"};
    }
    return ok_status();
  }

  const Commit& commit_;
  TensorReader reader_;
  const ByteProgress& progress_;
  uint64_t total_;
  uint64_t done_ = 0;
  std::vector<std::byte> raw_;
  std::vector<std::byte> converted_;
};

Status write_index(const std::vector<Shard>& shards, const Exported& out,
                   const std::string& folder) {
  nlohmann::ordered_json json = {{"metadata", {{"total_size", out.bytes}}}};
  std::map<std::string, std::string> where;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const Planned& planned : shards[i]) where.emplace(planned.info.name, out.files[i].name);
  }
  json["weight_map"] = where;
  const std::string text = json.dump(2) + "\n";
  return write_file(folder + "/" + std::string(kSafetensorsIndexName), text);
}

}  // namespace

Result<Exported> export_safetensors(Store& store, const Commit& commit,
                                    const SafetensorsExport& options,
                                    const ByteProgress& progress) {
  if (options.dtype && !can_convert_to(*options.dtype)) {
    return Status(Code::kInvalidArgument, "tensors can't be converted to " +
                                              dtype_name(*options.dtype) +
                                              ": use float32, float64, float16 or bfloat16.");
  }
  Exported out;
  CONVOY_ASSIGN_OR_RETURN(std::vector<Planned> chosen, choose(commit, options, out));
  uint64_t total = 0;  // to read
  for (const Planned& planned : chosen) total += tensor_bytes(planned.entry->info);
  const std::vector<Shard> shards = split(std::move(chosen), options.shard_bytes);
  if (shards.size() > kSafetensorsShardsMax) {
    return Status(Code::kInvalidArgument, "--shard-size would make " +
                                              std::to_string(shards.size()) +
                                              " files; use a "
                                              "larger one.");
  }
  CONVOY_ASSIGN_OR_RETURN(WorkFolder work, WorkFolder::create(options.folder, is_ours));
  Writer writer(store, commit, progress, total);
  for (size_t i = 0; i < shards.size(); ++i) {
    CONVOY_ASSIGN_OR_RETURN(
        const SafetensorsFile file,
        writer.write(shards[i], work.path(), safetensors_shard_name(i, shards.size())));
    out.files.push_back(file);
    out.tensors += file.tensors;
    for (const Planned& planned : shards[i]) out.bytes += tensor_bytes(planned.info);
  }
  if (shards.size() > 1) CONVOY_RETURN_IF_ERROR(write_index(shards, out, work.path()));
  CONVOY_RETURN_IF_ERROR(work.finish());
  return out;
}

}  // namespace convoy::ckpt
