// Who serves a part, and who else has a chunk of it. Another tier may have the same parts, or
// others with the same streams (a snapshot in memory): parts are the same if their records are,
// chunks if they are at the same place of the same rank's stream and have the same checksum.
#include "ckpt/restore/part_homes.h"

#include <convoy/base/log.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

bool same_part(const PartRef& a, const PartRef& b) {
  return a.bytes > 0 && a.bytes == b.bytes && a.checksum == b.checksum && a.node == b.node;
}

// The same step, perhaps in another tier, whose folder has claims of its own. What is taken from
// there is compared with this one's checksums.
bool same_step(const Commit& a, const Commit& b) {
  const bool same_job = !a.job.empty() && a.job == b.job && a.generation == b.generation;
  return a.step == b.step && (a.claim == b.claim || same_job);
}

// The same chunk in another source's part.
bool find_chunk(const Part& part, const Stream& like, uint64_t chunk, uint32_t& stream) {
  for (uint32_t i = 0; i < part.streams.size(); ++i) {
    const Stream& s = part.streams[i];
    if (s.rank == like.rank && s.bytes == like.bytes && s.chunk_bytes == like.chunk_bytes &&
        s.chunks[chunk].checksum == like.chunks[chunk].checksum) {
      stream = i;
      return true;
    }
  }
  return false;
}

}  // namespace

PartHomes::PartHomes(StepSource& source, std::span<StepSource* const> others) : source_(source) {
  for (StepSource* other : others) {
    if (other == nullptr || other == &source) continue;
    if (same_step(other->commit(), source.commit())) others_.push_back(other);
  }
}

Result<PartHomes::Home> PartHomes::home(uint32_t part) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = homes_.find(part); found != homes_.end()) return found->second;
  }
  CONVOY_ASSIGN_OR_RETURN(const Home home, find_home(part));
  const std::lock_guard lock(mutex_);
  return homes_.emplace(part, home).first->second;
}

Result<PartHomes::Home> PartHomes::find_home(uint32_t part) {
  const Result<const Part*> own = source_.part(part);
  if (own.ok()) return Home{&source_, part, *own};
  const PartRef& wanted = source_.commit().parts[part];
  for (StepSource* other : others_) {
    const std::vector<PartRef>& parts = other->commit().parts;
    const auto found =
        std::ranges::find_if(parts, [&](const PartRef& p) { return same_part(p, wanted); });
    if (found == parts.end()) continue;
    const auto index = static_cast<uint32_t>(found - parts.begin());
    const Result<const Part*> theirs = other->part(index);
    if (!theirs.ok()) continue;
    CONVOY_LOG(Warn) << own.status().message() << "; its data is read from " << other->name();
    return Home{other, index, *theirs};
  }
  return own.status();
}

ChunkId PartHomes::there(const ChunkId& id, StepSource*& source) {
  const std::lock_guard lock(mutex_);
  const Home& home = homes_.at(id.part);
  source = home.source;
  return {home.index, id.stream, id.chunk};
}

Status PartHomes::mend(const ChunkId& id, std::byte* to, const std::shared_ptr<const void>& owner,
                       const Status& why, std::string& from) {
  CONVOY_ASSIGN_OR_RETURN(const Home home, this->home(id.part));
  const Stream& like = home.part->streams[id.stream];
  Status status = why;
  std::vector<StepSource*> candidates = others_;
  if (home.source != &source_) candidates.push_back(&source_);
  for (StepSource* other : candidates) {
    if (other == home.source) continue;
    for (uint32_t i = 0; i < other->commit().parts.size(); ++i) {
      if (other->commit().parts[i].node != home.part->node) continue;
      const Result<const Part*> part = other->part(i);
      uint32_t stream = 0;
      if (!part.ok() || !find_chunk(**part, like, id.chunk, stream)) continue;
      // What may still arrive after a deadline must not do so in memory that is freed here.
      struct Kept {
        std::vector<std::byte> stored;
        std::shared_ptr<const void> owner;
      };
      const uint32_t bytes = (*part)->streams[stream].chunks[id.chunk].bytes;
      const auto kept = std::make_shared<Kept>(Kept{std::vector<std::byte>(bytes), owner});
      ChunkRead read{{i, stream, id.chunk}, to, kept->stored.data()};
      other->read({&read, 1}, kept);
      from = other->name();
      if (read.status.ok() || read.status.code() == Code::kDeadlineExceeded) return read.status;
      status = read.status;
    }
  }
  return status;
}

}  // namespace convoy::ckpt
