// Chunks in files: neighbours are read together, and singly when that fails, so that one bad place
// costs one chunk.
#include "ckpt/restore/verify.h"
#include <convoy/ckpt/step_source.h>

#include <algorithm>
#include <map>
#include <utility>
#include <zstd.h>

namespace convoy::ckpt {
namespace {

const Stream& stream_of(const Part& part, const ChunkId& id) {
  CONVOY_CHECK(id.stream < part.streams.size() && id.chunk < part.streams[id.stream].chunks.size(),
               "no such chunk");
  return part.streams[id.stream];
}

Status decompress(const StepSource& source, const ChunkRead& read, const Stream& stream) {
  const Chunk& chunk = stream.chunks[read.id.chunk];
  const size_t size = stream.chunk_size(read.id.chunk);
  const size_t bytes = ZSTD_decompress(read.to, size, read.stored, chunk.bytes);
  if (ZSTD_isError(bytes) == 0 && bytes == size) return ok_status();
  return {Code::kDataLoss,
          "chunk " + std::to_string(read.id.chunk) + " of rank " + std::to_string(stream.rank) +
              ", " + source.place(read.id) + ", cannot be decompressed" +
              (ZSTD_isError(bytes) != 0 ? std::string(": ") + ZSTD_getErrorName(bytes)
                                        : ": it is too short")};
}

// A file that the commit record's parts name and that is not there is lost, not unknown.
Status lost(const Status& status) {
  return status.code() == Code::kNotFound ? Status(Code::kDataLoss, status.message()) : status;
}

}  // namespace

FileStepSource::FileStepSource(std::string name, Commit commit, Store& records)
    : StepSource(std::move(name), std::move(commit)), records_(records) {}

Result<Part> FileStepSource::load_part(uint32_t index) {
  const std::lock_guard lock(records_mutex_);
  return records_.load_part(commit().parts[index]);
}

void FileStepSource::read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& owner) {
  struct Wanted {
    std::vector<ReadRange> ranges;
    std::vector<ChunkRead*> reads;
  };
  std::map<std::string_view, Wanted> files;
  for (ChunkRead& read : reads) {
    const Part& part = loaded(read.id.part);
    const Chunk& chunk = stream_of(part, read.id).chunks[read.id.chunk];
    std::byte* to = chunk.codec == Codec::kRaw ? read.to : read.stored;
    CONVOY_CHECK(to != nullptr, "a chunk is to be read to nowhere");
    Wanted& file = files[part.files[chunk.file].path];
    file.ranges.push_back({chunk.offset, chunk.bytes, to});
    file.reads.push_back(&read);
  }
  for (auto& [path, file] : files) {
    const std::string name(path);
    const Status all = lost(fetch(name, file.ranges, owner));
    // What did not answer once is not asked again for each chunk.
    const bool singly = !all.ok() && all.code() != Code::kDeadlineExceeded && file.reads.size() > 1;
    for (size_t i = 0; i < file.reads.size(); ++i) {
      file.reads[i]->status =
          singly ? lost(fetch(name, std::span(file.ranges).subspan(i, 1), owner)) : all;
    }
  }
  for (ChunkRead& read : reads) {
    if (!read.status.ok()) continue;
    const Stream& stream = stream_of(loaded(read.id.part), read.id);
    if (stream.chunks[read.id.chunk].codec == Codec::kZstd) {
      read.status = decompress(*this, read, stream);
    }
    if (read.status.ok()) read.status = verify_chunk(*this, read.id, stream, read.to);
  }
}

StoreSource::StoreSource(Store& store, Commit commit)
    : FileStepSource(store.name(), std::move(commit), store), store_(store) {}

Status StoreSource::fetch(const std::string& file, std::span<const ReadRange> ranges,
                          const std::shared_ptr<const void>& /*owner*/) {
  for (size_t i = 0; i < ranges.size();) {
    size_t bytes = ranges[i].bytes;
    size_t end = i + 1;
    while (end < ranges.size() && ranges[end].offset == ranges[i].offset + bytes &&
           ranges[end].destination == ranges[i].destination + bytes) {
      bytes += ranges[end++].bytes;
    }
    CONVOY_RETURN_IF_ERROR(store_.read_at(file, ranges[i].offset, {ranges[i].destination, bytes}));
    i = end;
  }
  return ok_status();
}

// The files that are open. A reader that somebody still uses outlives its place here.
struct FolderSource::Files {
  explicit Files(std::shared_ptr<DiskEngine> e) : engine(std::move(e)) {}

  Result<std::shared_ptr<DiskReader>> open(const std::string& path) {
    const std::lock_guard lock(mutex);
    if (const auto found = readers.find(path); found != readers.end()) return found->second;
    CONVOY_ASSIGN_OR_RETURN(std::unique_ptr<DiskReader> reader, engine->open_file(path));
    if (readers.size() >= kOpenFilesMax) readers.erase(readers.begin());
    return readers.emplace(path, std::move(reader)).first->second;
  }

  const std::shared_ptr<DiskEngine> engine;
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<DiskReader>> readers;  // guarded by mutex
};

FolderSource::FolderSource(std::string folder, Commit commit, std::unique_ptr<Store> records,
                           std::shared_ptr<DiskEngine> engine)
    : FileStepSource(folder, std::move(commit), *records),
      folder_(std::move(folder)),
      records_store_(std::move(records)),
      files_(std::make_unique<Files>(std::move(engine))) {}

FolderSource::~FolderSource() = default;

Result<std::unique_ptr<FolderSource>> FolderSource::create(const std::string& folder, Commit commit,
                                                           std::shared_ptr<DiskEngine> engine) {
  CONVOY_CHECK(engine != nullptr, "a folder source needs a disk engine");
  CONVOY_ASSIGN_OR_RETURN(std::unique_ptr<Store> records, open_local_store(folder));
  return std::unique_ptr<FolderSource>(
      new FolderSource(folder, std::move(commit), std::move(records), std::move(engine)));
}

Status FolderSource::fetch(const std::string& file, std::span<const ReadRange> ranges,
                           const std::shared_ptr<const void>& owner) {
  CONVOY_ASSIGN_OR_RETURN(const auto reader, files_->open(folder_ + "/" + file));
  return reader->read(ranges, owner);
}

}  // namespace convoy::ckpt
