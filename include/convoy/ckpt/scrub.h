#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/step_source.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

// Reads committed data again, to find damage while it can still be mended, and mends it.
namespace convoy::ckpt {

// Where the same bytes may be had once more. What it gives is believed only if checksums match.
class Mender {
 public:
  virtual ~Mender() = default;
  virtual std::string name() const = 0;  // for messages
  // The whole file of a part or commit record.
  virtual Result<std::vector<std::byte>> record(const std::string& path) = 0;
  // The bytes of chunk `i` as they are stored: stored.size() is Chunk::bytes.
  virtual Status chunk(const Part& part, const Stream& stream, uint64_t i,
                       std::span<std::byte> stored) = 0;
};

// Another copy of the folder, with the same files. The store must outlive it.
class StoreMender final : public Mender {
 public:
  explicit StoreMender(Store& store) : store_(store) {}
  std::string name() const override { return store_.name(); }
  Result<std::vector<std::byte>> record(const std::string& path) override;
  Status chunk(const Part& part, const Stream& stream, uint64_t i,
               std::span<std::byte> stored) override;

 private:
  Store& store_;
};

// A committed step of a store. The store must outlive it. kNotFound.
Result<std::unique_ptr<StepSource>> open_step(Store& store, uint64_t step);

// The same step in a place with files of its own, such as the remote tier: uncompressed chunks
// only, and no records. One for each scrub of a step.
class StepMender final : public Mender {
 public:
  // Asked once, when a chunk is wanted: the place need not be reached before.
  using Open = std::function<Result<std::unique_ptr<StepSource>>(uint64_t step)>;
  StepMender(std::string name, Open open) : name_(std::move(name)), open_(std::move(open)) {}
  std::string name() const override { return name_; }
  Result<std::vector<std::byte>> record(const std::string& path) override;
  Status chunk(const Part& part, const Stream& stream, uint64_t i,
               std::span<std::byte> stored) override;

 private:
  const std::string name_;
  const Open open_;
  std::unique_ptr<StepSource> source_;
  Status failed_;  // to open it
};

struct ScrubOptions {
  std::vector<Mender*> menders;  // asked in this order
  // Files in these steps' folders are left out: they are read with their own step.
  std::set<uint64_t> other_steps;
  // Called after each few MiB; false stops (kAborted).
  std::function<bool(const VerifyProgress&)> progress;
};

struct ScrubReport {
  VerifyReport found;               // as it was met
  std::vector<std::string> healed;  // files that are whole again: data, parts
  std::vector<Status> left;         // what is still damaged, one each for a file
  bool ok() const { return left.empty(); }
};

// Reads every chunk of the step through `source`, which decides about bandwidth and caches, and
// replaces damaged files of `store`, the same folder: each as a whole, durably, at once. Chunks
// that nobody has whole stay as they are. Needs no claim, may run beside the job: what it writes is
// what was there (kNotFound if the job removes the step meanwhile). Holds some MiB. Blocks; one
// thread at a time for a folder.
Result<ScrubReport> scrub(FileStepSource& source, Store& store, const ScrubOptions& options = {});

// The damaged commit record of `info` is replaced by the mender's; kDataLoss if none has it.
Status mend_commit(Store& store, const StepInfo& info, const std::vector<Mender*>& menders);

}  // namespace convoy::ckpt
