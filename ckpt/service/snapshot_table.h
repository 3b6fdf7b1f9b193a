#pragma once

#include <convoy/ckpt/tier.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

// Which step lies in which slot, how far it is, and who gets the next free one. Pure: no memory, no
// messages; the agent carries out what it says.
namespace convoy::ckpt {

struct SnapshotKey {
  uint64_t generation = 0;
  uint64_t step = 0;
  auto operator<=>(const SnapshotKey&) const = default;
};

// Every rank of the node has an arena with the same number of slots, and a step uses the same slot
// in all of them: so one decision serves all ranks, and none saves a step that another skips.
class SnapshotTable {
 public:
  // `alone`: a step is whole when all ranks have staged it; else complete() says when it is.
  SnapshotTable(int slots, uint32_t ranks, bool alone = true)
      : slots_(slots), ranks_(ranks), alone_(alone) {}

  enum class Verdict : uint8_t { kGranted, kBusy, kSkipped };
  struct Decision {
    Verdict verdict = Verdict::kBusy;
    int slot = -1;
    std::string why;                     // of kSkipped
    std::optional<SnapshotKey> dropped;  // made room for it
  };
  // Takes a queued step back from its tier; false: the tier has begun, and needs the bytes.
  using Withdraw = std::function<bool(const SnapshotKey&)>;
  // A rank wants to write its snapshot of the step. The first rank's decision is that of all.
  Decision acquire(const SnapshotKey& key, Overtake policy, const Withdraw& withdraw = {});

  // Of a node among several: the coordinator has decided. False: the slot is not free.
  bool place(const SnapshotKey& key, int slot);
  void complete(const SnapshotKey& key);
  // Forgets the step; its slot is free.
  void drop(const SnapshotKey& key);

  // A rank's snapshot lies in the slot. True if the step is whole by that: it is the newest then,
  // and the older ones that no tier needs have been dropped. False too for a rank that says it
  // twice, or for a step that was dropped meanwhile.
  bool stage(const SnapshotKey& key, uint32_t rank);
  bool is_known(const SnapshotKey& key) const { return find(key) != nullptr; }

  // A rank has gone: what it has not staged will never be whole. Returns those steps; their slots
  // are free.
  std::vector<SnapshotKey> lose(uint32_t rank);
  // A rank has come to a step (ranks save in ascending order): the same for the steps before it. It
  // may have failed to save one, or have saved it to an agent that has died.
  std::vector<SnapshotKey> pass_over(uint32_t rank, const SnapshotKey& until);

  // A tier wants the step's bytes: first queued, when it may still be replaced, then in use.
  void queue(const SnapshotKey& key);
  void use(const SnapshotKey& key);
  void done(const SnapshotKey& key);

  // Keeps the step, whatever tiers and newer steps do. Counted.
  void pin(const SnapshotKey& key);
  // `surplus`: an older step is the better one to keep; this one goes when no tier needs it.
  void unpin(const SnapshotKey& key, bool surplus = false);

  struct Held {
    SnapshotKey key;
    int slot;
  };
  std::optional<Held> newest() const;  // whole

 private:
  struct Entry {
    SnapshotKey key;
    int slot = 0;
    std::set<uint32_t> staged;
    bool whole = false, queued = false, used = false;
    int pins = 0;
    bool surplus = false;
    uint64_t order = 0;  // in which they became whole
  };
  const Entry* find(const SnapshotKey& key) const;
  Entry* find(const SnapshotKey& key);
  int free_slot() const;
  void drop_superseded();

  const int slots_;
  const uint32_t ranks_;
  const bool alone_;
  std::vector<Entry> entries_;
  std::deque<SnapshotKey> skipped_;  // the last kSkippedMax
  uint64_t next_order_ = 1;
};

}  // namespace convoy::ckpt
