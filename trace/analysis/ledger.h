#pragma once

#include "trace/analysis/sketch.h"
#include <convoy/trace/clock_model.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/event.h>
#include <convoy/trace/join.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace convoy::trace {

// How far a rank is with the collectives of a group, or with the messages to or from a peer in it.
struct Progress {
  uint32_t group = 0;
  int32_t peer = -1;  // -1: collectives
  bool sends = false;
  uint32_t issued = 0, started = 0, completed = 0;  // sequences
};

// What a rank has called, newest last.
struct Call {
  uint32_t signature = 0, sequence = 0;
  int64_t issued = 0, completed = 0;  // host's clock
};

enum LinkCounter : uint8_t {
  kLinkSent,
  kLinkReceived,
  kLinkSendWait,
  kLinkPeerWait,
  kLinkReceiveWait,
  kLinkSourceWait,
  kLinkRetransmits,
  kLinkCounters
};

// A link's counters now and about a second ago.
struct LinkState {
  uint32_t peer = 0;
  int64_t time = 0, before_time = 0, next_time = 0;
  std::array<uint64_t, kLinkCounters> now{}, before{}, next{};
  uint64_t growth(LinkCounter c) const { return now[c] > before[c] ? now[c] - before[c] : 0; }
};

struct RankTrack {
  bool is_seen = false;
  bool tells_starts = false;
  RankState state;             // the newest
  int64_t last_seen = 0;       // root's clock: as far as is known of it
  int64_t last_activity = 0;   // host's clock: something was called, began or ended
  int64_t last_on_device = 0;  // the same: an operation or a kernel began or ended
  int64_t died = 0;            // root's clock: first seen dead
  int64_t alive = 0;           // the same: last seen alive
  int64_t interval = 0;        // between states, the longest
  int64_t lateness = 0;        // of batches, the longest
  uint64_t newest_batch = 0, batches_before = 0;  // the 64 numbers before the newest, as bits
  int64_t step = 0, step_end = 0;                 // the newest one that has ended; host's clock
  std::vector<Progress> progress;
  std::vector<Call> calls;  // a ring
  size_t next_call = 0;
  std::vector<LinkState> links;
  Operation last;  // of the newest batch

  bool is_dead() const { return state.life == Life::kExited || state.life == Life::kKilled; }
  bool has_called() const { return next_call > 0 || !state.pending.empty() || calls_told; }
  bool calls_told = false;
  const Progress* find(uint32_t group, int32_t peer, bool sends) const;
};

// Operations that differ only in where they run: the same kind and size in groups of one size.
struct ShapeTrack {
  Sketch durations;
  uint64_t count = 0;
  // Of `paired` ones that were looked at: how often the rank called, or ran, another meanwhile.
  uint64_t paired = 0, called_meanwhile = 0, ran_meanwhile = 0;
  bool is_async() const { return paired >= 16 && called_meanwhile * 10 > paired; }
  bool overlaps() const { return paired >= 16 && ran_meanwhile * 10 > paired; }
};

// What is known of a job, from its batches: where each rank stands, and what is usual. Keeps the
// newest only, but for a ring of calls of each rank.
class Ledger {
 public:
  Ledger(const Registry& registry, const DiagnoserOptions& options);

  // True where a new generation has begun: all that was known of ranks is gone.
  bool job(const JobInfo& job);
  // False: told already, or of another generation. `clocks` and `join` learn from it.
  bool batch(const Batch& batch, ClockModel& clocks, Join& join);

  const JobInfo& info() const { return job_; }
  const Registry& registry() const { return registry_; }
  const DiagnoserOptions& options() const { return options_; }
  const std::vector<RankTrack>& ranks() const { return ranks_; }
  const RankTrack& rank(uint32_t r) const { return r < ranks_.size() ? ranks_[r] : unseen_; }
  int64_t first_seen() const { return first_seen_; }
  // Root's clock: the newest that is known of anybody.
  int64_t horizon() const { return horizon_; }
  int64_t lateness() const { return lateness_; }

  uint32_t shape_of(uint32_t signature) const { return shape_of_[signature]; }
  const ShapeTrack& shape(uint32_t signature) const { return shapes_[shape_of_[signature]]; }
  // How long an operation may take.
  int64_t deadline(uint32_t signature) const;
  // Of a group's first collective, once all ranks are in it: connections are made.
  int64_t first_deadline() const;
  // How long nothing may be heard of a rank's host with these spans open.
  int64_t idle_limit(const RankTrack& rank) const;
  // How long `operation` was pending on `rank`, or nothing happened there, when it was last heard.
  int64_t age(const RankTrack& rank, const Operation& operation) const;
  int64_t idle(const RankTrack& rank) const;
  // How long `operation` ran there, as far as starts are told.
  int64_t running(const RankTrack& rank, const Operation& operation) const;
  // How long nothing happened on the rank's GPU, and how long that may last.
  int64_t device_idle(const RankTrack& rank) const;
  int64_t device_idle_limit(uint32_t signature) const;
  // The innermost open span's name; null: none.
  const std::string* open_span(const RankTrack& rank) const;
  // The step that the rank is in; 0: not known.
  int64_t step_of(const RankTrack& rank) const;
  // Between the rank's states, the longest to be expected.
  int64_t interval(const RankTrack& rank) const;
  bool is_silent(const RankTrack& rank) const;
  // For so long that it is not just a batch that comes late.
  bool is_surely_silent(const RankTrack& rank) const;
  // Calls of a group or channel that the rank has made: pending, or not long ago.
  std::optional<uint32_t> signature_at(uint32_t rank, const Signature& like,
                                       uint32_t sequence) const;

 private:
  bool is_new_batch(RankTrack& rank, uint64_t number) const;
  void learn_signatures();
  void operations(RankTrack& rank, const std::vector<Operation>& operations);
  void pair(const Operation& a, const Operation& b);
  void state(RankTrack& rank, const Batch& batch, const ClockModel& clocks);
  void spans(RankTrack& rank, const std::vector<SpanEvent>& spans);
  void counters(RankTrack& rank, const std::vector<CounterEvent>& counters);
  Progress& progress(RankTrack& rank, uint32_t group, int32_t peer, bool sends);
  void advance(RankTrack& rank, const Operation& operation, bool is_complete);
  int64_t span_limit(std::string_view name, uint32_t number) const;

  const Registry& registry_;
  DiagnoserOptions options_;
  JobInfo job_;
  bool has_job_ = false;
  std::vector<RankTrack> ranks_;
  RankTrack unseen_;
  int64_t horizon_ = 0, first_seen_ = 0, lateness_ = 0;
  size_t calls_of_rank_ = 512;

  std::vector<uint32_t> shape_of_;  // of each signature
  std::deque<ShapeTrack> shapes_;
  Registry shape_numbers_;
  Sketch gaps_;                     // between calls of one rank
  Sketch intervals_;                // between states of one rank
  std::vector<Sketch> span_times_;  // of each name
  std::vector<int8_t> counter_of_;  // LinkCounter of each name, -1: none
};

}  // namespace convoy::trace
