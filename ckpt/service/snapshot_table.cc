#include "ckpt/service/snapshot_table.h"

#include <algorithm>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr size_t kSkippedMax = 4096;  // steps that stay skipped for ranks that ask late

}  // namespace

std::string_view tier_name(Tier tier) {
  switch (tier) {
    case Tier::kStaged:
      return "staged";
    case Tier::kReplicated:
      return "replicated";
    case Tier::kLocalDurable:
      return "local durable";
    case Tier::kRemoteDurable:
      return "remote durable";
  }
  return "in no tier";
}

const SnapshotTable::Entry* SnapshotTable::find(const SnapshotKey& key) const {
  const auto at = std::ranges::find(entries_, key, &Entry::key);
  return at == entries_.end() ? nullptr : &*at;
}

SnapshotTable::Entry* SnapshotTable::find(const SnapshotKey& key) {
  return const_cast<Entry*>(std::as_const(*this).find(key));
}

int SnapshotTable::free_slot() const {
  for (int slot = 0; slot < slots_; ++slot) {
    if (std::ranges::find(entries_, slot, &Entry::slot) == entries_.end()) return slot;
  }
  return -1;
}

void SnapshotTable::drop(const SnapshotKey& key) {
  std::erase_if(entries_, [&](const Entry& e) { return e.key == key; });
}

SnapshotTable::Decision SnapshotTable::acquire(const SnapshotKey& key, Overtake policy,
                                               const Withdraw& withdraw) {
  if (const Entry* entry = find(key)) {
    if (!entry->whole) return {Verdict::kGranted, entry->slot, {}, {}};
    return {Verdict::kSkipped, -1, "this step is saved already", {}};
  }
  if (std::ranges::find(skipped_, key) != skipped_.end()) {
    return {Verdict::kSkipped, -1, "earlier saves are still being written", {}};
  }
  Decision decision;
  decision.slot = free_slot();
  if (decision.slot < 0 && policy == Overtake::kReplace) {
    const auto waiting = std::ranges::find_if(
        entries_, [](const Entry& e) { return e.whole && e.queued && !e.used && e.pins == 0; });
    if (waiting != entries_.end() && (!withdraw || withdraw(waiting->key))) {
      decision.dropped = waiting->key;
      decision.slot = waiting->slot;
      drop(waiting->key);
    }
  }
  if (decision.slot >= 0) {
    decision.verdict = Verdict::kGranted;
    Entry& entry = entries_.emplace_back();
    entry.key = key;
    entry.slot = decision.slot;
    return decision;
  }
  if (policy != Overtake::kSkip) return decision;
  skipped_.push_back(key);
  if (skipped_.size() > kSkippedMax) skipped_.pop_front();
  return {Verdict::kSkipped, -1, "earlier saves are still being written", {}};
}

bool SnapshotTable::stage(const SnapshotKey& key, uint32_t rank) {
  Entry* entry = find(key);
  if (entry == nullptr || entry->whole || !entry->staged.insert(rank).second) return false;
  if (entry->staged.size() < ranks_) return false;
  if (alone_) complete(key);
  return true;
}

bool SnapshotTable::place(const SnapshotKey& key, int slot) {
  if (find(key) != nullptr) return true;
  if (slot < 0 || slot >= slots_) return false;
  if (std::ranges::find(entries_, slot, &Entry::slot) != entries_.end()) return false;
  Entry& entry = entries_.emplace_back();
  entry.key = key;
  entry.slot = slot;
  return true;
}

void SnapshotTable::complete(const SnapshotKey& key) {
  Entry* entry = find(key);
  if (entry == nullptr || entry->whole) return;
  entry->whole = true;
  entry->order = next_order_++;
  drop_superseded();
}

void SnapshotTable::pin(const SnapshotKey& key) {
  if (Entry* entry = find(key)) ++entry->pins;
}

void SnapshotTable::unpin(const SnapshotKey& key, bool surplus) {
  if (Entry* entry = find(key)) {
    --entry->pins;
    entry->surplus = surplus;
  }
  drop_superseded();
}

std::vector<SnapshotKey> SnapshotTable::lose(uint32_t rank) {
  return pass_over(rank, {UINT64_MAX, UINT64_MAX});
}

std::vector<SnapshotKey> SnapshotTable::pass_over(uint32_t rank, const SnapshotKey& until) {
  std::vector<SnapshotKey> lost;
  for (const Entry& e : entries_) {
    if (!e.whole && e.key < until && e.staged.count(rank) == 0) lost.push_back(e.key);
  }
  for (const SnapshotKey& key : lost) drop(key);
  return lost;
}

void SnapshotTable::queue(const SnapshotKey& key) {
  if (Entry* entry = find(key)) entry->queued = true;
}

void SnapshotTable::use(const SnapshotKey& key) {
  if (Entry* entry = find(key)) entry->used = true;
}

void SnapshotTable::done(const SnapshotKey& key) {
  if (Entry* entry = find(key)) entry->queued = entry->used = false;
  drop_superseded();
}

std::optional<SnapshotTable::Held> SnapshotTable::newest() const {
  const Entry* best = nullptr;
  const auto rank = [](const Entry& e) { return std::pair(!e.surplus, e.order); };
  for (const Entry& e : entries_) {
    if (e.whole && (best == nullptr || rank(e) > rank(*best))) best = &e;
  }
  return best == nullptr ? std::nullopt : std::optional<Held>({best->key, best->slot});
}

void SnapshotTable::drop_superseded() {
  const auto best = newest();
  std::erase_if(entries_, [&](const Entry& e) {
    return e.whole && best && e.key != best->key && !e.queued && !e.used && e.pins == 0;
  });
}

}  // namespace convoy::ckpt
