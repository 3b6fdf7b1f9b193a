#pragma once

#include <convoy/base/clock.h>
#include <convoy/ckpt/store.h>

#include <map>
#include <mutex>
#include <random>
#include <string>

namespace convoy::ckpt {

// What goes wrong with a FaultyStore. Operations that change something (put, create_new, append,
// finish, remove, sync) are counted from 0.
struct Faults {
  static constexpr uint64_t kNever = ~uint64_t{0};
  uint32_t seed = 1;
  // At this operation the machine dies. It may have taken effect or not; with `tear` it may have
  // left a prefix of its file, which breaks the Store's promise. Files without a name are gone, and
  // any subset of the removals since the last sync() is undone.
  uint64_t crash_at = kNever;
  bool tear = false;
  // From this operation on the disk is full: everything that writes fails, remove() does not.
  uint64_t full_at = kNever;
  // At this operation the store stops answering: it and all that follow wait for `patience` of the
  // clock and give kDeadlineExceeded; the operation itself may have taken effect.
  uint64_t hang_at = kNever;
  Nanos patience = std::chrono::minutes(1);
  // Chances of a read (get, read_at) to flip a bit, to end early, or to fail with EIO.
  double flips = 0;
  double short_reads = 0;
  double eio = 0;
};

// A store that fails as told, the same way for the same seed. Thread-safe.
class FaultyStore final : public Store {
 public:
  explicit FaultyStore(Faults faults = {}) { set(faults); }
  // The machine comes back, or first comes up, with these faults; operations count from 0 again.
  void set(const Faults& faults);
  uint64_t operations() const { return operations_; }
  bool crashed() const { return crashed_; }
  // Faults that fired on reads.
  uint64_t read_faults() const { return read_faults_; }
  const ManualClock& clock() const { return clock_; }
  MemoryStore& disk() { return disk_; }

  std::string name() const override { return "faulty"; }
  Status put(const std::string& path, std::span<const std::byte> bytes) override;
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override;
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override;
  Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) override;
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override;
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override;
  Status remove(const std::string& path) override;
  Status sync() override;

 private:
  friend class FaultyWriter;
  enum class Kind { kAppend, kPut, kCreate, kRemove, kSync };
  // Counts one operation on `path` and does it, or what a fault leaves of it.
  Status change(Kind kind, const std::string& path, std::span<const std::byte> bytes);
  Status apply(Kind kind, const std::string& path, std::span<const std::byte> bytes);
  Status alive();
  void crash(Kind kind, const std::string& path, std::span<const std::byte> bytes);
  bool chance(double probability);

  std::mutex mutex_;
  Faults faults_;
  std::mt19937 random_;
  MemoryStore disk_;
  std::map<std::string, std::vector<std::byte>> unsynced_removals_;
  uint64_t operations_ = 0;
  uint64_t read_faults_ = 0;
  bool crashed_ = false;
  bool hangs_ = false;
  ManualClock clock_;
};

}  // namespace convoy::ckpt
