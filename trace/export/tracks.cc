#include "trace/export/tracks.h"

#include <algorithm>

namespace convoy::trace {

Slice slice_of(const Operation& operation) {
  Slice slice;
  slice.begin = operation.started != 0 ? operation.started : operation.issued;
  slice.end = operation.completed != 0 ? operation.completed : Slice::kUnfinished;
  slice.issued = operation.issued;
  slice.what = operation.signature;
  slice.sequence = operation.sequence;
  return slice;
}

Slice slice_of(const SpanEvent& span) {
  Slice slice;
  slice.begin = span.begin;
  slice.end = span.end != 0 ? span.end : Slice::kUnfinished;
  slice.value = span.value;
  slice.what = span.name;
  return slice;
}

TrackKind track_of(const Signature& signature) {
  if (!signature.is_message()) return TrackKind::kGroup;
  return signature.operation == "recv" ? TrackKind::kReceive : TrackKind::kSend;
}

Tracks::Tracks(LaneWriter& to, size_t waiting_max) : to_(to), waiting_max_(waiting_max) {}

Tracks::Pile& Tracks::pile(const Track& track) {
  const uint64_t key =
      uint64_t{track.rank} << 34 | uint64_t{static_cast<uint8_t>(track.kind)} << 32 | track.id;
  if (key != last_key_) {
    const auto [at, is_new] = pile_of_.try_emplace(key, static_cast<uint32_t>(piles_.size()));
    if (is_new) {
      piles_.emplace_back();
      piles_.back().track = track;
    }
    last_key_ = key;
    last_pile_ = at->second;
  }
  return piles_[last_pile_];
}

void Tracks::add(const Track& track, const Slice& slice) {
  ++slices_;
  Slice whole = slice;
  whole.end = std::max(whole.end, whole.begin);
  pile(track).waiting.push_back(whole);
  if (++waiting_ < waiting_max_) return;
  for (Pile& p : piles_) flush(p, false);
  if (waiting_ < waiting_max_ / 2) return;
  for (Pile& p : piles_) flush(p, true);
}

// Keeps what may lie within a slice that has not come yet: all that is younger than the newest
// slice with others within it.
void Tracks::flush(Pile& pile, bool all) {
  std::vector<Slice>& waiting = pile.waiting;
  if (waiting.empty()) return;
  const auto before = [](const Slice& a, const Slice& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  };
  // Groups' operations mostly come in order.
  if (!std::ranges::is_sorted(waiting, before)) std::ranges::sort(waiting, before);
  size_t count = waiting.size();
  if (!all && pile.track.kind == TrackKind::kThread) {
    size_t parent = 0, outermost = 0;
    for (size_t i = 1; i < count; ++i) {
      if (waiting[i].begin >= waiting[outermost].end) {
        outermost = i;
      } else {
        parent = outermost;
      }
    }
    count = parent;
    while (count < waiting.size() && waiting[count].begin < waiting[parent].end) ++count;
  }
  for (size_t i = 0; i < count; ++i) place(pile, waiting[i]);
  waiting.erase(waiting.begin(), waiting.begin() + static_cast<long>(count));
  waiting_ -= count;
}

bool Tracks::fits(const Row& row, const Slice& slice) {
  if (slice.begin < row.at) return false;
  size_t open = row.ends.size();
  while (open > 0 && row.ends[open - 1] <= slice.begin) --open;
  return open == 0 || slice.end <= row.ends[open - 1];
}

void Tracks::close(Row& row, int64_t until) {
  while (!row.ends.empty() && row.ends.back() <= until) {
    row.at = row.ends.back();
    if (row.at != Slice::kUnfinished) to_.end(row.lane, row.at);
    row.ends.pop_back();
  }
}

void Tracks::place(Pile& pile, const Slice& slice) {
  auto row = std::ranges::find_if(pile.rows, [&](const Row& r) { return fits(r, slice); });
  if (row == pile.rows.end()) {
    pile.rows.emplace_back();
    row = pile.rows.end() - 1;
    row->lane = {pile.track, lanes_++, static_cast<uint32_t>(pile.rows.size() - 1)};
    to_.open(row->lane);
  }
  close(*row, slice.begin);
  row->at = slice.begin;
  to_.begin(row->lane, slice);
  if (slice.end > slice.begin) row->ends.push_back(slice.end);
}

void Tracks::finish() {
  for (Pile& p : piles_) {
    flush(p, true);
    for (Row& row : p.rows) close(row, Slice::kUnfinished);
  }
}

}  // namespace convoy::trace
