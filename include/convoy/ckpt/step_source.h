#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/disk_file.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

// Where a committed step can be read from: a folder of this machine, any store, memory.
namespace convoy::ckpt {

// A chunk of a step: chunk `chunk` of stream `stream` (index into Part::streams) of part `part`
// (index into Commit::parts).
struct ChunkId {
  uint32_t part = 0;
  uint32_t stream = 0;
  uint64_t chunk = 0;

  bool operator==(const ChunkId&) const = default;
  auto operator<=>(const ChunkId&) const = default;  // NOLINT(modernize-use-nullptr)
};

// One chunk to read. `to` has room for the chunk's raw bytes; `stored`, needed for a zstd chunk
// only, for its Chunk::bytes. `status` is the answer.
struct ChunkRead {
  ChunkId id;
  std::byte* to = nullptr;
  std::byte* stored = nullptr;
  Status status = {};
};

// A committed step, readable. Thread-safe: several threads read at once, and that is how reading
// gets deep; each call works in its own thread and blocks until its chunks are there.
class StepSource {
 public:
  virtual ~StepSource() = default;
  StepSource(const StepSource&) = delete;
  StepSource& operator=(const StepSource&) = delete;

  // For messages: "step 120 in /mnt/checkpoints".
  const std::string& name() const { return name_; }
  const Commit& commit() const { return commit_; }

  // The part with that index, which must be < commit().parts.size(). Loaded when first asked for,
  // kept, and good for as long as the source lives. kDataLoss if its record is damaged or missing;
  // asked again, the source tries again.
  Result<const Part*> part(uint32_t index);

  // Reads chunks of parts that part() has given, in any order; each is decompressed and compared
  // with its checksum before its status says ok. Where it does not, `to` has undefined content.
  // kDataLoss: it is not what was saved, or its file is missing or too short. kDeadlineExceeded:
  // the disk did not answer, and may still write to `to` and `stored`, which must live on for as
  // long as the source holds `owner`.
  virtual void read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& owner) = 0;

  // A raw chunk where the source has it in memory, not yet verified; null: read() it.
  virtual const std::byte* view(const ChunkId& id) const;
  // What `to` should be a multiple of, so that read() needs no copy of its own.
  virtual size_t memory_align() const { return 1; }
  // Where the chunk lies, for messages: "data/…/n00012-000.chunks at 4096". Of a loaded part.
  virtual std::string place(const ChunkId& id) const;

 protected:
  StepSource(std::string name, Commit commit);
  virtual Result<Part> load_part(uint32_t index) = 0;
  // A part that was loaded.
  const Part& loaded(uint32_t index) const;

 private:
  const std::string name_;
  const Commit commit_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<const Part>> parts_;  // guarded by mutex_
};

// What folder and store have in common: chunks lie in files.
class FileStepSource : public StepSource {
 public:
  void read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& owner) override;

 protected:
  FileStepSource(std::string name, Commit commit, Store& records);
  Result<Part> load_part(uint32_t index) override;
  // Fills all ranges of a file.
  virtual Status fetch(const std::string& file, std::span<const ReadRange> ranges,
                       const std::shared_ptr<const void>& owner) = 0;

 private:
  std::mutex records_mutex_;
  Catalog records_;  // guarded by records_mutex_
};

// A step in a store, through Store::read_at(). Neighbouring chunks are one read. How deep the reads
// are is the number of threads that call. The store must outlive the source.
class StoreSource final : public FileStepSource {
 public:
  StoreSource(Store& store, Commit commit);

 private:
  Status fetch(const std::string& file, std::span<const ReadRange> ranges,
               const std::shared_ptr<const void>& owner) override;
  Store& store_;
};

// Files that a FolderSource has open at a time, at most (beside those that are being read).
inline constexpr size_t kOpenFilesMax = 64;

// A step in a folder of this machine: O_DIRECT reads through a disk engine, which merges
// neighbouring chunks, has several requests in flight and a deadline for each. Links in the folder
// are followed; whatever they lead to is believed only if its checksums match.
class FolderSource final : public FileStepSource {
 public:
  // kNotFound if the folder is not there. The engine may be shared with others.
  static Result<std::unique_ptr<FolderSource>> create(const std::string& folder, Commit commit,
                                                      std::shared_ptr<DiskEngine> engine);
  ~FolderSource() override;
  // That nearly every disk takes; the engine copies where one wants more.
  size_t memory_align() const override { return 512; }

 private:
  struct Files;
  FolderSource(std::string folder, Commit commit, std::unique_ptr<Store> records,
               std::shared_ptr<DiskEngine> engine);
  Status fetch(const std::string& file, std::span<const ReadRange> ranges,
               const std::shared_ptr<const void>& owner) override;

  const std::string folder_;
  const std::unique_ptr<Store> records_store_;
  const std::unique_ptr<Files> files_;
};

// A node's snapshot in memory: the part, whose chunks' files and offsets mean nothing, and the
// bytes of each of its streams, which `owner` (an arena) keeps alive.
struct Snapshot {
  Part part;
  std::vector<std::span<const std::byte>> streams;  // in the order of part.streams
  std::shared_ptr<const void> owner;
};

// A step in memory, own or mapped. The bytes must not change while anyone reads.
class ArenaSource final : public StepSource {
 public:
  // `head` has all but parts, tensors and steps. kInvalidArgument if a stream's bytes or chunks are
  // not as its part says, a part is of another step, or chunks are compressed; kMismatch if parts
  // disagree on a tensor.
  static Result<std::unique_ptr<ArenaSource>> create(const std::string& name, Commit head,
                                                     std::vector<Snapshot> snapshots);
  // Copies past the caches and takes the checksum in the same pass.
  void read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& owner) override;
  const std::byte* view(const ChunkId& id) const override;
  std::string place(const ChunkId& id) const override;

 private:
  ArenaSource(const std::string& name, Commit commit, std::vector<Snapshot> snapshots);
  Result<Part> load_part(uint32_t index) override;
  const std::vector<Snapshot> snapshots_;
};

// Whether the chunk's raw bytes are what was saved: kDataLoss, with the chunk's place, if not.
Status verify_chunk(const StepSource& source, const ChunkId& id, const Stream& stream,
                    const std::byte* raw);

}  // namespace convoy::ckpt
