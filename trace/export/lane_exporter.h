#pragma once

#include "trace/export/output_file.h"
#include "trace/export/tracks.h"
#include <convoy/trace/export.h>

#include <utility>
#include <vector>

namespace convoy::trace {

// What the forms have in common that draw slices in lanes.
class LaneExporter : public Exporter, protected LaneWriter {
 public:
  void batch(const Batch& batch) final {
    add(batch.rank, batch.operations, batch.spans);
    for (const CounterEvent& c : batch.counters) counter(batch.rank, c);
    summary_.operations += batch.operations.size();
    summary_.spans += batch.spans.size();
    summary_.counters += batch.counters.size();
  }

  void unfinished(uint32_t rank, const RankState& state) final {
    add(rank, state.pending, state.open);
    summary_.unfinished += state.pending.size() + state.open.size();
  }

 protected:
  LaneExporter(OutputFile file, const Registry& registry, const Survey& survey)
      : file_(std::move(file)), registry_(registry), survey_(survey), tracks_(*this) {}

  virtual void counter(uint32_t rank, const CounterEvent& c) = 0;
  virtual void describe(uint32_t rank) = 0;

  // Before the first of all that stands below the rank.
  void describe_once(uint32_t rank) {
    if (rank >= described_.size()) described_.resize(rank + 1);
    if (described_[rank]) return;
    described_[rank] = true;
    ++summary_.ranks;
    describe(rank);
  }

  OutputFile file_;
  const Registry& registry_;
  const Survey& survey_;
  Tracks tracks_;

 private:
  void add(uint32_t rank, const std::vector<Operation>& operations,
           const std::vector<SpanEvent>& spans) {
    for (const Operation& o : operations) {
      const Signature& s = registry_.signatures()[o.signature];
      tracks_.add({rank, track_of(s), s.group}, slice_of(o));
    }
    for (const SpanEvent& s : spans) {
      tracks_.add({rank, TrackKind::kThread, s.thread}, slice_of(s));
    }
  }

  std::vector<bool> described_;
};

}  // namespace convoy::trace
