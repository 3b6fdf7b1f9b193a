#pragma once

#include <convoy/ckpt/restore.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

namespace convoy::ckpt {

// The source of a load and those that can stand in for it. Thread-safe.
class PartHomes {
 public:
  // Others that don't have the same commit are passed over.
  PartHomes(StepSource& source, std::span<StepSource* const> others);

  // Where a part of the source's commit record is read from: the source itself, or, where its
  // record is damaged, another source with the same part.
  struct Home {
    StepSource* source = nullptr;
    uint32_t index = 0;  // of the part there
    const Part* part = nullptr;
  };
  // Loads the part if need be.
  Result<Home> home(uint32_t part);
  // Of a part that home() gave.
  ChunkId there(const ChunkId& id, StepSource*& source);

  // Tries to read the chunk, which its home has not whole, from another source. Ok and the name of
  // that source in `from`, or the status of the last that had it, or `why`. `owner` keeps `to`.
  Status mend(const ChunkId& id, std::byte* to, const std::shared_ptr<const void>& owner,
              const Status& why, std::string& from);

  StepSource& source() { return source_; }

 private:
  Result<Home> find_home(uint32_t part);

  StepSource& source_;
  std::vector<StepSource*> others_;
  std::mutex mutex_;
  std::map<uint32_t, Home> homes_;  // guarded by mutex_
};

}  // namespace convoy::ckpt
