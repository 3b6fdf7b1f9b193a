// Large collectives of a local group. Memory traffic decides their speed, so data in shared heaps
// is read where it lies and results are stored where they belong, past the caches; data elsewhere
// goes through staging areas in pieces that stay in the caches. Which way is taken follows from the
// posted descriptors alone, so all ranks take the same.
#include "src/comm/host/copy.h"
#include "src/comm/host/request.h"
#include "src/comm/host/shm_group.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace convoy::host {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kCopyBlock = 32 * 1024;  // read once into L1/L2, stored to every receiver
constexpr size_t kSelfReliantRanks = 3;
constexpr size_t kCheckBytes = 256 * 1024;        // failures are looked at so often
constexpr size_t kStreamMin = 512 * 1024;         // smaller results are wanted in the caches
constexpr size_t kReduceChunk = kStageBytes / 4;  // two for inputs, two for results
constexpr size_t kCopyChunk = kStageBytes / 2;    // two for inputs

class Large {
 public:
  explicit Large(const LargeOp& o)
      : o_(o),
        core_(o.core),
        n_(static_cast<size_t>(core_.size())),
        me_(static_cast<size_t>(core_.rank())),
        root_(static_cast<size_t>(o.mine.root)),
        element_(dtype_size(o.mine.dtype)) {}

  // Brings the first piece of what this rank contributes to its stage. Before arrival: only this
  // rank's posting is known.
  void stage_first() {
    switch (o_.mine.kind) {
      case OpKind::kBarrier:
        return;
      case OpKind::kAllReduce:
      case OpKind::kReduce:
        return stage_in(0, kReduceChunk / element_);
      case OpKind::kReduceScatter:
        return stage_parts(0, part_bytes());
      default:
        return stage_sources(0);
    }
  }

  Status run() {
    for (const RankOp& posted : o_.ranks) factors_.push_back(posted.op->premul);
    switch (o_.mine.kind) {
      case OpKind::kBarrier:
        return core_.barrier(o_.op);
      case OpKind::kAllReduce:
      case OpKind::kReduce:
        return all_reduce();
      case OpKind::kReduceScatter:
        return reduce_scatter();
      default:
        return copy();
    }
  }

 private:
  // --- Reductions.

  bool receives(size_t r) const { return o_.mine.kind != OpKind::kReduce || r == root_; }

  // The part of `count` elements that rank r works on; its borders are cache lines.
  std::pair<size_t, size_t> slice(size_t r, size_t count) const {
    const size_t grain = std::max<size_t>(1, kLine / element_);
    const size_t grains = (count + grain - 1) / grain;
    const size_t from = std::min(count, grains * r / n_ * grain);
    const size_t to = std::min(count, grains * (r + 1) / n_ * grain);
    return {from, to - from};
  }

  // Reduces `count` elements at in[0..n-1] and stores the result to every address of `out`.
  Status reduce(std::span<const char*> in, size_t count, std::span<char* const> out, bool stream) {
    std::vector<const void*> from(n_);
    std::vector<void*> to(out.size());
    const size_t step = kCheckBytes / element_;
    // Streaming stores begin at cache lines; results that lie differently in theirs can't all.
    const size_t head = (kLine - line_offset(out)) % kLine;
    const bool aligned = head % element_ == 0 && same_alignment(out);
    for (size_t done = 0, part = 0; done < count; done += part) {
      if (core_.failed()) return core_.error();
      const bool at_line = !aligned || (done * element_ + kLine - head) % kLine == 0;
      part = std::min(at_line ? step : head / element_, count - done);
      for (size_t r = 0; r < n_; ++r) from[r] = in[r] + done * element_;
      for (size_t k = 0; k < out.size(); ++k) to[k] = out[k] + done * element_;
      o_.kernel({from.data(), n_, factors_.data(), part, to.data(), to.size(),
                 stream && aligned && at_line});
    }
    return ok_status();
  }

  static size_t line_offset(std::span<char* const> out) {
    return out.empty() ? 0 : reinterpret_cast<uintptr_t>(out[0]) % kLine;
  }
  static bool same_alignment(std::span<char* const> out) {
    return std::all_of(out.begin(), out.end(), [&](const char* at) {
      return reinterpret_cast<uintptr_t>(at) % kLine == line_offset(out);
    });
  }

  Status all_reduce() {
    const size_t count = o_.mine.in[0].count;
    bool direct = true, private_in = true, private_out = false;
    for (size_t r = 0; r < n_; ++r) {
      direct = direct && o_.ranks[r].in[0].offset != kPrivate;
      private_in = private_in && o_.ranks[r].in[0].offset == kPrivate;
      private_out = private_out || (receives(r) && o_.ranks[r].out[0].offset == kPrivate);
    }
    direct = direct && !private_out;
    if (private_in && private_out && n_ <= kSelfReliantRanks &&
        o_.mine.kind == OpKind::kAllReduce) {
      return all_reduce_alone();
    }
    const size_t chunk = direct ? std::max<size_t>(count, 1) : kReduceChunk / element_;
    const size_t steps = (count + chunk - 1) / chunk;
    // Step i brings chunk i to where all see it, reduces chunk i-1, and takes the result of i-2
    // away, so that one barrier a step is enough.
    const size_t lead = direct ? 0 : 1;
    const size_t turns = steps + lead + (private_out ? 1 : 0);
    for (size_t i = first_turn(direct); i < turns; ++i) {
      if (!direct && i < steps) stage_in(i, chunk);
      if (i >= lead && i - lead < steps) {
        CONVOY_RETURN_IF_ERROR(reduce_chunk(i - lead, chunk));
      }
      if (private_out && i >= lead + 1) take_out(i - lead - 1, chunk);
      // After its last turn nobody waits for anybody where results were taken from the own stage.
      if (!private_out || i + 1 < turns) CONVOY_RETURN_IF_ERROR(core_.barrier(o_.op));
    }
    return ok_status();
  }

  // Two or three ranks with private buffers: each reduces everything for itself. A byte then
  // crosses between caches once for each other rank; with slices it would do so up to three times.
  Status all_reduce_alone() {
    const size_t count = o_.mine.in[0].count, chunk = kReduceChunk / element_;
    const size_t steps = (count + chunk - 1) / chunk;
    std::vector<const char*> in(n_);
    for (size_t i = first_turn(false); i <= steps; ++i) {
      stage_in(i, chunk);
      if (i >= 1) {
        const size_t begin = (i - 1) * chunk;
        for (size_t r = 0; r < n_; ++r) in[r] = o_.stages[r] + (i - 1) % 2 * kReduceChunk;
        char* out = static_cast<char*>(o_.mine.out[0].data) + begin * element_;
        CONVOY_RETURN_IF_ERROR(reduce(in, std::min(chunk, count - begin), {&out, 1}, is_big()));
      }
      CONVOY_RETURN_IF_ERROR(core_.barrier(o_.op));
    }
    return ok_status();
  }

  // The turn that only stages was done before arrival, if there was one collective to do it for.
  size_t first_turn(bool direct) const { return !direct && o_.first_staged ? 1 : 0; }

  void stage_in(size_t step, size_t chunk) {
    const size_t from = step * chunk;
    if (o_.ranks[me_].in[0].offset != kPrivate || from >= o_.mine.in[0].count) return;
    const size_t part = std::min(chunk, o_.mine.in[0].count - from);
    std::memcpy(o_.stages[me_] + step % 2 * kReduceChunk,
                static_cast<const char*>(o_.mine.in[0].data) + from * element_, part * element_);
  }

  void take_out(size_t step, size_t chunk) {
    if (!receives(me_) || o_.ranks[me_].out[0].offset != kPrivate) return;
    const size_t from = step * chunk, part = std::min(chunk, o_.mine.in[0].count - from);
    put(static_cast<char*>(o_.mine.out[0].data) + from * element_,
        o_.stages[me_] + (2 + step % 2) * kReduceChunk, part * element_, is_big());
  }

  Status reduce_chunk(size_t step, size_t chunk) {
    const size_t begin = step * chunk, length = std::min(chunk, o_.mine.in[0].count - begin);
    const auto [skip, part] = slice(me_, length);
    std::vector<const char*> in(n_);
    std::vector<char*> shared_out, staged_out;
    for (size_t r = 0; r < n_; ++r) {
      const SpanRecord& from = o_.ranks[r].in[0];
      in[r] = from.offset != kPrivate ? address(r, from) + (begin + skip) * element_
                                      : o_.stages[r] + step % 2 * kReduceChunk + skip * element_;
      if (!receives(r)) continue;
      const SpanRecord& to = o_.ranks[r].out[0];
      if (to.offset != kPrivate) {
        shared_out.push_back(address(r, to) + (begin + skip) * element_);
      } else {
        staged_out.push_back(o_.stages[r] + (2 + step % 2) * kReduceChunk + skip * element_);
      }
    }
    // Results for staging areas are read again at once: they belong into the cache.
    const bool stream = is_big() && staged_out.empty();
    shared_out.insert(shared_out.end(), staged_out.begin(), staged_out.end());
    const Status done = reduce(in, part, shared_out, stream);
    if (stream) stream_fence();
    return done;
  }

  Status reduce_scatter() {
    bool direct = true;
    size_t longest = 0;
    for (size_t r = 0; r < n_; ++r) {
      for (size_t d = 0; d < n_; ++d) {
        const SpanRecord& span = o_.ranks[r].in[d];
        direct = direct && (span.count == 0 || span.offset != kPrivate);
        longest = std::max<size_t>(longest, span.count);
      }
    }
    const size_t piece = direct ? std::max<size_t>(longest, 1) : part_bytes() / element_;
    const size_t steps = (longest + piece - 1) / piece, lead = direct ? 0 : 1;
    for (size_t i = first_turn(direct); i < steps + lead; ++i) {
      if (!direct) stage_parts(i, piece * element_);
      if (i >= lead) CONVOY_RETURN_IF_ERROR(reduce_piece(i - lead, piece));
      CONVOY_RETURN_IF_ERROR(core_.barrier(o_.op));
    }
    return ok_status();
  }

  // Of a stage, what the part for each rank gets at a time.
  size_t part_bytes() const { return kCopyChunk / n_ / kLine * kLine; }

  void stage_parts(size_t step, size_t piece) {
    for (size_t d = 0; d < n_; ++d) {
      stage_piece(o_.ranks[me_].in[d], o_.mine.in[d].data, d, step, piece);
    }
  }

  Status reduce_piece(size_t step, size_t piece) {
    const size_t count = o_.mine.out[0].count, begin = step * piece;
    if (begin >= count) return ok_status();
    const size_t part = std::min(piece, count - begin);
    std::vector<const char*> in(n_);
    for (size_t r = 0; r < n_; ++r) {
      const SpanRecord& from = o_.ranks[r].in[me_];
      in[r] = from.offset != kPrivate ? address(r, from) + begin * element_
                                      : staged(r, me_, step, piece * element_);
    }
    char* out = static_cast<char*>(o_.mine.out[0].data) + begin * element_;
    return reduce(in, part, std::span<char* const>(&out, 1), is_big());
  }

  // --- Copies: every pair (s, d) for which rank s has something for rank d.

  bool exists(size_t s, size_t d) const {
    switch (o_.mine.kind) {
      case OpKind::kBroadcast:
        return s == root_ && d != root_;
      case OpKind::kScatter:
        return s == root_;
      case OpKind::kGather:
        return d == root_;
      default:
        return true;
    }
  }
  // Which of its spans rank s sends to d; broadcast sends its output.
  size_t source_index(size_t d) const {
    return o_.mine.kind == OpKind::kAllToAll || o_.mine.kind == OpKind::kScatter ? d : 0;
  }
  const SpanRecord& source(size_t s, size_t d) const {
    const RankOp& posted = o_.ranks[s];
    return o_.mine.kind == OpKind::kBroadcast ? posted.out[0] : posted.in[source_index(d)];
  }
  const char* own_source(size_t d) const {
    return static_cast<const char*>(o_.mine.kind == OpKind::kBroadcast
                                        ? o_.mine.out[0].data
                                        : o_.mine.in[source_index(d)].data);
  }
  size_t target_index(size_t s) const {
    return o_.mine.kind == OpKind::kBroadcast || o_.mine.kind == OpKind::kScatter ? 0 : s;
  }
  const SpanRecord& target(size_t s, size_t d) const { return o_.ranks[d].out[target_index(s)]; }
  char* own_target(size_t s) const { return static_cast<char*>(o_.mine.out[target_index(s)].data); }

  Status copy() {
    bool sources_shared = true, targets_shared = true;
    for (size_t s = 0; s < n_; ++s) {
      for (size_t d = 0; d < n_; ++d) {
        if (s == d || !exists(s, d) || source(s, d).count == 0) continue;
        sources_shared = sources_shared && source(s, d).offset != kPrivate;
        targets_shared = targets_shared && target(s, d).offset != kPrivate;
      }
    }
    Status done;
    if (o_.mine.kind == OpKind::kBroadcast && sources_shared && targets_shared) {
      done = push_slice();
    } else if (o_.mine.kind == OpKind::kBroadcast || o_.mine.kind == OpKind::kScatter) {
      if (!sources_shared)
        return o_.mine.kind == OpKind::kScatter && targets_shared ? finish(push())
                                                                  : through_stages();
      done = pull();
    } else {
      if (!targets_shared && !sources_shared) return through_stages();
      done = targets_shared ? push() : pull();
    }
    return finish(done);
  }

  Status finish(const Status& done) {
    CONVOY_RETURN_IF_ERROR(done);
    stream_fence();
    return core_.barrier(o_.op);
  }

  // Broadcast: each rank reads its slice of the root's buffer once and stores it to all.
  Status push_slice() {
    if (n_ == 1) return ok_status();
    const auto [skip, count] = slice(me_, o_.mine.out[0].count);
    const char* from = address(root_, o_.ranks[root_].out[0]) + skip * element_;
    std::vector<char*> to;
    for (size_t d = 0; d < n_; ++d) {
      if (d != root_) to.push_back(address(d, o_.ranks[d].out[0]) + skip * element_);
    }
    return spread(from, count * element_, to);
  }

  // Sends what this rank has to where it belongs.
  Status push() {
    if (o_.mine.kind == OpKind::kAllGather) {
      std::vector<char*> to;
      for (size_t i = 0; i < n_; ++i) {
        const size_t d = (me_ + i) % n_;
        char* at = d == me_ ? own_target(me_) : address(d, target(me_, d));
        if (at != own_source(me_)) to.push_back(at);
      }
      return spread(own_source(me_), o_.mine.in[0].count * element_, to);
    }
    for (size_t i = 0; i < n_; ++i) {
      const size_t d = (me_ + i) % n_;
      if (!exists(me_, d)) continue;
      char* to = d == me_ ? own_target(me_) : address(d, target(me_, d));
      if (to == own_source(d)) continue;
      CONVOY_RETURN_IF_ERROR(spread(own_source(d), source(me_, d).count * element_, {&to, 1}));
    }
    return ok_status();
  }

  // Fetches what this rank gets.
  Status pull() {
    for (size_t i = 0; i < n_; ++i) {
      const size_t s = (me_ + i) % n_;
      if (exists(s, me_)) CONVOY_RETURN_IF_ERROR(fetch(s));
    }
    return ok_status();
  }

  Status fetch(size_t s) {
    const char* from = s == me_ ? own_source(me_) : address(s, source(s, me_));
    char* to = own_target(s);
    if (from == to) return ok_status();
    return spread(from, source(s, me_).count * element_, {&to, 1});
  }

  // Reads each block once and stores it to every address.
  Status spread(const char* from, size_t bytes, std::span<char* const> to) {
    for (size_t done = 0; done < bytes; done += kCopyBlock) {
      if (done % kCheckBytes == 0 && core_.failed()) return core_.error();
      const size_t part = std::min(kCopyBlock, bytes - done);
      for (char* at : to) put(at + done, from + done, part, is_big());
    }
    return ok_status();
  }

  // Private sources go piece by piece through their owner's stage.
  Status through_stages() {
    const size_t piece = source_piece(), first = first_turn(false);
    size_t longest = 0;
    for (size_t s = 0; s < n_; ++s) {
      for (size_t d = 0; d < n_; ++d) {
        if (s == d || !exists(s, d) || source(s, d).offset != kPrivate) continue;
        longest = std::max(longest, source(s, d).count * element_);
      }
    }
    const size_t steps = (longest + piece - 1) / piece;
    for (size_t i = first; i <= std::max(steps, first); ++i) {
      stage_sources(i);
      for (size_t k = 0; k < n_; ++k) {
        const size_t s = (me_ + k) % n_;
        if (!exists(s, me_) || source(s, me_).count == 0) continue;
        if (s == me_ || source(s, me_).offset != kPrivate) {
          if (i == first) CONVOY_RETURN_IF_ERROR(fetch(s));
        } else if (i > 0) {
          fetch_staged(s, i - 1, piece);
        }
      }
      stream_fence();
      CONVOY_RETURN_IF_ERROR(core_.barrier(o_.op));
    }
    return ok_status();
  }

  // Whether each receiver gets something of its own.
  bool sends_parts() const {
    return o_.mine.kind == OpKind::kAllToAll || o_.mine.kind == OpKind::kScatter;
  }
  size_t source_piece() const { return kCopyChunk / (sends_parts() ? n_ : 1) / kLine * kLine; }

  void stage_sources(size_t step) {
    for (size_t d = 0; d < n_; ++d) {
      if (d == me_ || !exists(me_, d)) continue;
      stage_piece(source(me_, d), own_source(d), source_index(d), step, source_piece());
      if (!sends_parts()) return;
    }
  }

  void fetch_staged(size_t s, size_t step, size_t piece) {
    const size_t bytes = source(s, me_).count * element_, from = step * piece;
    if (from >= bytes) return;
    put(own_target(s) + from, staged(s, source_index(me_), step, piece),
        std::min(piece, bytes - from), is_big());
  }

  // --- Common.

  // Piece `step` of span `index` in rank r's stage.
  char* staged(size_t r, size_t index, size_t step, size_t piece) const {
    return o_.stages[r] + step % 2 * kCopyChunk + index * piece;
  }

  void stage_piece(const SpanRecord& span, const void* data, size_t index, size_t step,
                   size_t piece) {
    const size_t bytes = span.count * element_, from = step * piece;
    if (span.offset != kPrivate || from >= bytes) return;
    std::memcpy(staged(me_, index, step, piece), static_cast<const char*>(data) + from,
                std::min(piece, bytes - from));
  }

  char* address(size_t r, const SpanRecord& span) const {
    return core_.at(static_cast<int>(r), span.offset, span.count * element_);
  }

  static void put(char* to, const char* from, size_t bytes, bool stream) {
    if (stream) {
      stream_copy(to, from, bytes);
    } else {
      std::memcpy(to, from, bytes);
    }
  }

  // Whether the collective's results are too large to be found in a cache later.
  bool is_big() const {
    size_t count = 0;
    for (const Span& span : o_.mine.out) count += span.count;
    for (const Span& span : o_.mine.in) count += span.count;
    return count * element_ >= kStreamMin;
  }

  const LargeOp& o_;
  ShmCore& core_;
  const size_t n_, me_, root_, element_;
  std::vector<double> factors_;
};

}  // namespace

void stage_first(const LargeOp& large) {
  Large(large).stage_first();
}

Status run_large(const LargeOp& large) {
  return Large(large).run();
}

}  // namespace convoy::host
