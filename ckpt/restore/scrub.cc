// One step, read in batches; damage is collected file by file and mended once the part is read.
#include "ckpt/restore/mend.h"
#include "ckpt/store/names.h"
#include <convoy/ckpt/scrub.h>

#include <algorithm>
#include <map>
#include <new>

namespace convoy::ckpt {
namespace {

constexpr size_t kBatchBytes = size_t{4} << 20;
constexpr size_t kAlign = 4096;

struct Buffer {
  explicit Buffer(size_t bytes)
      : memory(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlign}))) {}
  ~Buffer() { ::operator delete (memory, std::align_val_t{kAlign}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* const memory;
};

class StepScrubber {
 public:
  StepScrubber(FileStepSource& source, Store& store, const ScrubOptions& options)
      : source_(source), store_(store), options_(options) {}

  Result<ScrubReport> run() {
    const Commit& commit = source_.commit();
    report_.found.done.parts_total = commit.parts.size();
    for (uint32_t i = 0; i < commit.parts.size(); ++i) {
      CONVOY_RETURN_IF_ERROR(scrub_part(i));
      ++report_.found.done.parts;
    }
    return std::move(report_);
  }

 private:
  using BadFiles = std::map<uint32_t, std::vector<ChunkPlace>>;  // by file of the part

  Status scrub_part(uint32_t index) {
    const PartRef& ref = source_.commit().parts[index];
    Result<const Part*> part = source_.part(index);
    if (!part.ok()) {
      CONVOY_RETURN_IF_ERROR(still_there());
      report_.found.bad_parts.push_back(part.status());
      const Status mended = mend_part(store_, ref, options_.menders);
      if (!mended.ok()) {
        report_.left.push_back(mended);
        return ok_status();
      }
      report_.healed.push_back(ref.path);
      part = source_.part(index);
      CONVOY_RETURN_IF_ERROR(part.status());
    }
    for (const Stream& stream : (*part)->streams) {
      report_.found.done.chunks_total += stream.chunks.size();
    }
    BadFiles bad;
    for (uint32_t s = 0; s < (*part)->streams.size(); ++s) {
      CONVOY_RETURN_IF_ERROR(scrub_stream(**part, index, s, bad));
    }
    if (!bad.empty()) CONVOY_RETURN_IF_ERROR(still_there());
    for (auto& [file, places] : bad) CONVOY_RETURN_IF_ERROR(mend(**part, file, std::move(places)));
    return ok_status();
  }

  // A job may have removed the step while it was read: then nothing of it is damaged.
  Status still_there() {
    const CommitKey key{source_.commit().step, source_.commit().claim};
    const Status found = Catalog(store_).load_commit(key).status();
    return found.code() == Code::kNotFound ? found : ok_status();
  }

  bool is_left_out(const Part& part, const Chunk& chunk) const {
    const auto key = parse_data(part.files[chunk.file].path);
    return key && options_.other_steps.contains(key->step);
  }

  Status scrub_stream(const Part& part, uint32_t index, uint32_t s, BadFiles& bad) {
    const Stream& stream = part.streams[s];
    uint64_t next = 0;
    while (next < stream.chunks.size()) {
      std::vector<ChunkRead> batch;
      size_t bytes = 0;
      const size_t room = std::max<size_t>(kBatchBytes, stream.chunk_bytes);
      for (; next < stream.chunks.size() && bytes + stream.chunk_bytes <= room; ++next) {
        ++report_.found.done.chunks;
        report_.found.done.bytes += stream.chunk_size(next);
        if (is_left_out(part, stream.chunks[next])) continue;
        batch.push_back({{index, s, next}, nullptr, nullptr, {}});
        bytes += stream.chunk_bytes;
      }
      read(stream, batch);
      for (const ChunkRead& read : batch) note(part, stream, read, bad);
      if (options_.progress && !options_.progress(report_.found.done)) {
        return {Code::kAborted, "the scrub of step " + std::to_string(part.step) + " was stopped"};
      }
    }
    return ok_status();
  }

  void read(const Stream& stream, std::vector<ChunkRead>& batch) {
    if (batch.empty()) return;
    const size_t slot = (stream.chunk_bytes + kAlign - 1) / kAlign * kAlign;
    // Raw bytes and, behind them, stored ones. Held by the engine if the disk does not answer.
    const auto buffer = std::make_shared<Buffer>(2 * slot * batch.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      batch[i].to = buffer->memory + i * slot;
      batch[i].stored = buffer->memory + (batch.size() + i) * slot;
    }
    source_.read(batch, buffer);
  }

  void note(const Part& part, const Stream& stream, const ChunkRead& read, BadFiles& bad) {
    if (read.status.ok()) return;
    const uint64_t i = read.id.chunk;
    const Chunk& chunk = stream.chunks[i];
    report_.found.bad.push_back({source_.commit().parts[read.id.part].path, stream.rank, i,
                                 part.files[chunk.file].path, chunk.offset, read.status,
                                 tensors_in(part, stream, i)});
    bad[chunk.file].push_back({&stream, i});
  }

  Status mend(const Part& part, uint32_t file, std::vector<ChunkPlace> places) {
    const std::string& path = part.files[file].path;
    const uint64_t count = places.size();
    uint64_t lost = count;
    if (!options_.menders.empty()) {
      CONVOY_ASSIGN_OR_RETURN(lost,
                              mend_file(store_, part, file, std::move(places), options_.menders));
    }
    if (lost == 0) {
      report_.healed.push_back(path);
      return ok_status();
    }
    report_.left.emplace_back(Code::kDataLoss, std::to_string(lost) + " of " +
                                                   std::to_string(count) + " bad chunks of " +
                                                   path + " are whole nowhere else");
    return ok_status();
  }

  FileStepSource& source_;
  Store& store_;
  const ScrubOptions& options_;
  ScrubReport report_;
};

}  // namespace

Result<ScrubReport> scrub(FileStepSource& source, Store& store, const ScrubOptions& options) {
  return StepScrubber(source, store, options).run();
}

}  // namespace convoy::ckpt
