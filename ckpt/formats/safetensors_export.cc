// A step's tensors as safetensors files. Everything is written into a folder beside the target,
// which takes its name when all of it is on disk.
#include "ckpt/formats/convert.h"
#include "ckpt/formats/safetensors.h"
#include "ckpt/formats/tensor_reader.h"
#include <convoy/base/atomic_file.h>
#include <convoy/base/fd.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;
constexpr int kLockTriesMax = 16;  // exports that end while one waits for its folder

// A tensor and what it becomes.
struct Planned {
  const TensorEntry* entry = nullptr;
  TensorInfo info;
};
using Shard = std::vector<Planned>;

Status sync_folder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_status("cannot sync folder " + folder, errno);
  return ok_status();
}

// "out" and "out/" are the same; its parent is ".".
std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

bool is_ours(const std::string& name) {
  return name == kSafetensorsIndexName ||
         (name.starts_with("model") && name.ends_with(kSafetensorsSuffix));
}

// The folder in which an export works, locked. Without finish() it is removed.
class WorkFolder {
 public:
  static Result<WorkFolder> create(const std::string& target) {
    WorkFolder work(without_slashes(target));
    CONVOY_RETURN_IF_ERROR(work.check_target());
    for (int i = 0; i < kLockTriesMax; ++i) {
      CONVOY_ASSIGN_OR_RETURN(const bool locked, work.lock());
      if (!locked) continue;
      CONVOY_RETURN_IF_ERROR(work.clear());
      return work;
    }
    return Status(Code::kUnavailable, work.path_ + " is used by other exports all the time.");
  }
  WorkFolder(WorkFolder&&) = default;
  WorkFolder& operator=(WorkFolder&&) = delete;
  ~WorkFolder() {
    if (!lock_) return;
    (void)clear().ok();
    ::rmdir(path_.c_str());
  }

  const std::string& path() const { return path_; }

  Status finish() {
    CONVOY_RETURN_IF_ERROR(sync_folder(path_));
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
      return errno_status("cannot give " + path_ + " the name " + target_, errno);
    }
    lock_.reset();
    return sync_folder(parent_of(target_));
  }

 private:
  explicit WorkFolder(std::string target)
      : target_(std::move(target)), path_(target_ + ".partial") {}

  Status check_target() const {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(target_, error);
    if (!fs::exists(status)) return ok_status();
    if (fs::is_directory(status) && fs::is_empty(target_, error) && !error) return ok_status();
    return {Code::kInvalidArgument,
            target_ + " is there already; give a folder that is new or empty."};
  }

  // False if another export has just finished with the folder.
  Result<bool> lock() {
    if (::mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_status("cannot make folder " + path_, errno);
    }
    UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd && errno == ENOENT) return false;
    if (!fd) return errno_status("cannot open folder " + path_, errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return errno_status("cannot lock folder " + path_, errno);
      return Status(Code::kUnavailable, "another export is writing " + target_ +
                                            "; wait for it, or give another "
                                            "folder.");
    }
    struct stat mine = {};
    struct stat named = {};
    const bool same = ::fstat(fd.get(), &mine) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                      mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
    if (same) lock_ = std::move(fd);
    return same;
  }

  // Removes what a killed export has left.
  Status clear() {
    std::error_code error;
    std::vector<fs::path> files;
    for (fs::directory_iterator it(path_, error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (is_ours(name) || name.starts_with(".model")) {
        files.push_back(it->path());
      } else {
        lock_.reset();
        return {Code::kInvalidArgument, path_ + " holds " + name +
                                            ", which no export has written; remove it, or give "
                                            "another folder."};
      }
    }
    for (const fs::path& file : files) fs::remove(file, error);
    if (!error) return ok_status();
    return {Code::kInternal, "cannot clear folder " + path_ + ": " + error.message() + "."};
  }

  std::string target_;
  std::string path_;
  UniqueFd lock_;
};

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
  CONVOY_ASSIGN_OR_RETURN(AtomicFile file,
                          AtomicFile::create(folder + "/" + std::string(kSafetensorsIndexName)));
  CONVOY_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(text))));
  return file.commit();
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
  CONVOY_ASSIGN_OR_RETURN(WorkFolder work, WorkFolder::create(options.folder));
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
