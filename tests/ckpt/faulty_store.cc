#include "tests/ckpt/faulty_store.h"

#include <utility>

namespace convoy::ckpt {

class FaultyWriter final : public StoreWriter {
 public:
  FaultyWriter(FaultyStore& store, std::string path) : store_(store), path_(std::move(path)) {}
  Status append(std::span<const std::byte> bytes) override {
    CONVOY_RETURN_IF_ERROR(store_.change(FaultyStore::Kind::kAppend, path_, {}));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return ok_status();
  }
  Status finish() override { return store_.change(FaultyStore::Kind::kPut, path_, bytes_); }
  void abandon() override { bytes_.clear(); }

 private:
  FaultyStore& store_;
  std::string path_;
  std::vector<std::byte> bytes_;
};

void FaultyStore::set(const Faults& faults) {
  const std::lock_guard lock(mutex_);
  faults_ = faults;
  random_.seed(faults.seed);
  operations_ = 0;
  read_faults_ = 0;
  crashed_ = false;
  hangs_ = false;
}

bool FaultyStore::chance(double probability) {
  return std::uniform_real_distribution<double>(0, 1)(random_) < probability;
}

Status FaultyStore::alive() {
  if (crashed_) return {Code::kUnavailable, "the machine of the faulty store is down"};
  if (!hangs_) return ok_status();
  clock_.advance(faults_.patience);
  return {Code::kDeadlineExceeded, "the faulty store has not answered for a minute"};
}

Status FaultyStore::apply(Kind kind, const std::string& path, std::span<const std::byte> bytes) {
  switch (kind) {
    case Kind::kAppend:
      return ok_status();
    case Kind::kPut:
    case Kind::kCreate: {
      // The name's new life is durable, whatever became of its removal.
      const Status status =
          kind == Kind::kPut ? disk_.put(path, bytes) : disk_.create_new(path, bytes);
      if (status.ok()) unsynced_removals_.erase(path);
      return status;
    }
    case Kind::kRemove: {
      auto old = disk_.get(path, ~uint64_t{0});
      if (old.ok()) unsynced_removals_[path] = std::move(old).value();
      return disk_.remove(path);
    }
    case Kind::kSync:
      unsynced_removals_.clear();
      return ok_status();
  }
  return ok_status();
}

void FaultyStore::crash(Kind kind, const std::string& path, std::span<const std::byte> bytes) {
  crashed_ = true;
  const bool writes = kind == Kind::kPut || kind == Kind::kCreate;
  const auto outcome = random_() % 3;
  if (outcome == 0) {
    (void)apply(kind, path, bytes);
  } else if (outcome == 1 && writes && faults_.tear && !bytes.empty()) {
    (void)apply(kind, path, bytes.first(random_() % bytes.size()));
  }
  for (const auto& [removed, content] : unsynced_removals_) {
    if (random_() % 2 == 0) (void)disk_.put(removed, content);
  }
  unsynced_removals_.clear();
}

Status FaultyStore::change(Kind kind, const std::string& path, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  CONVOY_RETURN_IF_ERROR(alive());
  const uint64_t number = operations_++;
  if (number == faults_.crash_at) {
    crash(kind, path, bytes);
    return alive();
  }
  if (number == faults_.hang_at) {
    hangs_ = true;
    if (random_() % 2 == 0) (void)apply(kind, path, bytes);
    return alive();
  }
  const bool frees = kind == Kind::kRemove || kind == Kind::kSync;
  if (number >= faults_.full_at && !frees) {
    return {Code::kResourceExhausted, "cannot write faulty/" + path + ": no space left"};
  }
  return apply(kind, path, bytes);
}

Status FaultyStore::put(const std::string& path, std::span<const std::byte> bytes) {
  return change(Kind::kPut, path, bytes);
}
Status FaultyStore::create_new(const std::string& path, std::span<const std::byte> bytes) {
  return change(Kind::kCreate, path, bytes);
}
Status FaultyStore::remove(const std::string& path) {
  return change(Kind::kRemove, path, {});
}
Status FaultyStore::sync() {
  return change(Kind::kSync, "", {});
}

Result<std::unique_ptr<StoreWriter>> FaultyStore::open_writer(const std::string& path) {
  const std::lock_guard lock(mutex_);
  CONVOY_RETURN_IF_ERROR(alive());
  CONVOY_ASSIGN_OR_RETURN(const auto checked, disk_.open_writer(path));
  return std::unique_ptr<StoreWriter>(std::make_unique<FaultyWriter>(*this, path));
}

Result<std::vector<std::byte>> FaultyStore::get(const std::string& path, uint64_t most) {
  const std::lock_guard lock(mutex_);
  CONVOY_RETURN_IF_ERROR(alive());
  if (chance(faults_.eio) && ++read_faults_ > 0) {
    return Status(Code::kDataLoss, "cannot read faulty/" + path + ": input/output error");
  }
  auto bytes = disk_.get(path, most);
  if (!bytes.ok() || bytes->empty()) return bytes;
  if (chance(faults_.flips)) {
    ++read_faults_;
    (*bytes)[random_() % bytes->size()] ^= static_cast<std::byte>(1U << random_() % 8);
  }
  if (chance(faults_.short_reads)) {
    ++read_faults_;
    bytes->resize(random_() % bytes->size());
  }
  return bytes;
}

Status FaultyStore::read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  CONVOY_RETURN_IF_ERROR(alive());
  if ((chance(faults_.eio) || chance(faults_.short_reads)) && ++read_faults_ > 0) {
    return {Code::kDataLoss, "cannot read faulty/" + path + ": input/output error"};
  }
  CONVOY_RETURN_IF_ERROR(disk_.read_at(path, offset, out));
  if (!out.empty() && chance(faults_.flips)) {
    ++read_faults_;
    out[random_() % out.size()] ^= static_cast<std::byte>(1U << random_() % 8);
  }
  return ok_status();
}

Result<std::vector<StoreEntry>> FaultyStore::list(const std::string& prefix) {
  const std::lock_guard lock(mutex_);
  CONVOY_RETURN_IF_ERROR(alive());
  return disk_.list(prefix);
}

}  // namespace convoy::ckpt
