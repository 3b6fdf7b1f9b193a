// The store in memory: each operation is one change of a map under a lock.
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

using Bytes = std::vector<std::byte>;

class MemoryWriter final : public StoreWriter {
 public:
  MemoryWriter(MemoryStore* store, std::string path) : store_(store), path_(std::move(path)) {}
  Status append(std::span<const std::byte> bytes) override {
    CONVOY_CHECK(store_ != nullptr, "append after the end of " + path_);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return ok_status();
  }
  Status finish() override {
    CONVOY_CHECK(store_ != nullptr, "a second end of " + path_);
    return std::exchange(store_, nullptr)->put(path_, bytes_);
  }
  void abandon() override { store_ = nullptr; }

 private:
  MemoryStore* store_;  // null once ended
  std::string path_;
  Bytes bytes_;
};

Status not_found(const std::string& path) {
  return {Code::kNotFound, "there is no " + path + " in memory"};
}

}  // namespace

Status MemoryStore::put(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const std::lock_guard lock(mutex_);
  files_[path].assign(bytes.begin(), bytes.end());
  return ok_status();
}

Status MemoryStore::create_new(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const std::lock_guard lock(mutex_);
  if (!files_.try_emplace(path, bytes.begin(), bytes.end()).second) {
    return {Code::kAlreadyExists, path + " exists in memory"};
  }
  return ok_status();
}

Result<std::unique_ptr<StoreWriter>> MemoryStore::open_writer(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  return std::unique_ptr<StoreWriter>(std::make_unique<MemoryWriter>(this, path));
}

Result<Bytes> MemoryStore::get(const std::string& path, uint64_t most) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(path);
  if (found == files_.end()) return not_found(path);
  if (found->second.size() > most) {
    return Status(Code::kDataLoss, path + " has " + std::to_string(found->second.size()) +
                                       " bytes, more than " + std::to_string(most));
  }
  return found->second;
}

Status MemoryStore::read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(path);
  if (found == files_.end()) return not_found(path);
  const Bytes& bytes = found->second;
  if (offset > bytes.size() || out.size() > bytes.size() - offset) {
    return {Code::kDataLoss, path + " is truncated: it has " + std::to_string(bytes.size()) +
                                 " bytes, but " + std::to_string(out.size()) + " at " +
                                 std::to_string(offset) + " were asked for"};
  }
  std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
  return ok_status();
}

Result<std::vector<StoreEntry>> MemoryStore::list(const std::string& prefix) {
  const std::lock_guard lock(mutex_);
  std::vector<StoreEntry> entries;
  for (auto i = files_.lower_bound(prefix); i != files_.end() && i->first.starts_with(prefix);
       ++i) {
    entries.push_back({i->first, i->second.size()});
  }
  return entries;
}

Status MemoryStore::remove(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const std::lock_guard lock(mutex_);
  files_.erase(path);
  return ok_status();
}

}  // namespace convoy::ckpt
