// Which bytes go where. Reductions are exchanged directly: rank r receives slice r from all, adds
// in rank order (so the result has the same bits as in shared memory) and hands the sum out. Each
// rank sends and receives 2(n-1)/n of the bytes, as much as a ring does, in two hops instead of
// 2(n-1).
#include "src/comm/host/link_plan.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace convoy::host {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kScratchKept = size_t{64} << 20;

size_t ceil_div(size_t a, size_t b) {
  return (a + b - 1) / b;
}

class Planner {
 public:
  Planner(int rank, int size, int streams, const PlanLimits& limits, Scratch& scratch)
      : rank_(rank), size_(size), limits_(limits), scratch_(scratch) {
    plan_.lanes.resize(size);
    for (auto& lanes : plan_.lanes) lanes.resize(streams);
    next_send_.assign(size, 0);
    next_recv_.assign(size, 0);
  }

  void add(const Collective& op, size_t index);
  LinkPlan take() { return std::move(plan_); }

 private:
  int peer(int distance) const { return (rank_ + distance) % size_; }
  bool on_root(const Collective& op) const { return rank_ == op.root; }

  void send(int to, const void* data, size_t bytes, int after, int informs);
  void recv(int from, void* data, size_t bytes, int after, int informs);
  int add_step(size_t op, void* target, size_t count);
  void copy(const Span& from, const Span& to, size_t element);

  void gather_to_all(const Collective& op);
  void exchange(const Collective& op);
  void gather(const Collective& op);
  void scatter(const Collective& op);
  void broadcast(const Collective& op);
  void reduce_direct(const Collective& op, size_t index);
  void reduce_sliced(const Collective& op, size_t index);
  void reduce_scatter(const Collective& op, size_t index);

  const int rank_;
  const int size_;
  const PlanLimits& limits_;
  Scratch& scratch_;
  LinkPlan plan_;
  std::vector<size_t> next_send_, next_recv_;  // stripes so far, by peer
};

// Both ends cut and stripe by the same rule, so their lists match item by item.
void Planner::send(int to, const void* data, size_t bytes, int after, int informs) {
  auto& lanes = plan_.lanes[to];
  const char* at = static_cast<const char*>(data);
  for (size_t left = bytes; left > 0;) {
    const size_t piece = std::min(left, limits_.chunk_bytes);
    const bool striped = piece >= limits_.stripe_bytes;
    auto& lane = lanes[striped ? next_send_[to]++ % lanes.size() : 0];
    lane.sends.push_back({at, piece, after, informs});
    if (informs != kNoStep) ++plan_.steps[informs].waiting;
    at += piece;
    left -= piece;
  }
}

void Planner::recv(int from, void* data, size_t bytes, int after, int informs) {
  auto& lanes = plan_.lanes[from];
  char* at = static_cast<char*>(data);
  for (size_t left = bytes; left > 0;) {
    const size_t piece = std::min(left, limits_.chunk_bytes);
    const bool striped = piece >= limits_.stripe_bytes;
    auto& lane = lanes[striped ? next_recv_[from]++ % lanes.size() : 0];
    lane.recvs.push_back({at, piece, after, informs});
    if (informs != kNoStep) ++plan_.steps[informs].waiting;
    at += piece;
    left -= piece;
  }
}

int Planner::add_step(size_t op, void* target, size_t count) {
  ReduceStep step;
  step.op = op;
  step.target = static_cast<char*>(target);
  step.count = count;
  plan_.steps.push_back(std::move(step));
  return static_cast<int>(plan_.steps.size()) - 1;
}

void Planner::copy(const Span& from, const Span& to, size_t element) {
  if (from.data == to.data || from.count == 0) return;
  plan_.copies.push_back({from.data, to.data, from.count * element});
}

void Planner::gather_to_all(const Collective& op) {
  const size_t element = dtype_size(op.dtype);
  for (int d = 1; d < size_; ++d) {
    send(peer(d), op.in[0].data, op.in[0].count * element, kNoStep, kNoStep);
    const Span& out = op.out[peer(size_ - d)];
    recv(peer(size_ - d), out.data, out.count * element, kNoStep, kNoStep);
  }
  copy(op.in[0], op.out[rank_], element);
}

void Planner::exchange(const Collective& op) {
  const size_t element = dtype_size(op.dtype);
  for (int d = 1; d < size_; ++d) {
    const int to = peer(d), from = peer(size_ - d);
    send(to, op.in[to].data, op.in[to].count * element, kNoStep, kNoStep);
    recv(from, op.out[from].data, op.out[from].count * element, kNoStep, kNoStep);
  }
  copy(op.in[rank_], op.out[rank_], element);
}

void Planner::gather(const Collective& op) {
  const size_t element = dtype_size(op.dtype);
  if (!on_root(op)) {
    return send(op.root, op.in[0].data, op.in[0].count * element, kNoStep, kNoStep);
  }
  for (int d = 1; d < size_; ++d) {
    const Span& out = op.out[peer(d)];
    recv(peer(d), out.data, out.count * element, kNoStep, kNoStep);
  }
  copy(op.in[0], op.out[rank_], element);
}

void Planner::scatter(const Collective& op) {
  const size_t element = dtype_size(op.dtype);
  if (!on_root(op)) {
    return recv(op.root, op.out[0].data, op.out[0].count * element, kNoStep, kNoStep);
  }
  for (int d = 1; d < size_; ++d) {
    const Span& in = op.in[peer(d)];
    send(peer(d), in.data, in.count * element, kNoStep, kNoStep);
  }
  copy(op.in[rank_], op.out[0], element);
}

// Small: the root sends everything to everybody. Large: it sends each chunk to one of the others,
// which passes it on, so that no link carries more than the message once.
void Planner::broadcast(const Collective& op) {
  const size_t bytes = op.out[0].count * dtype_size(op.dtype);
  char* data = static_cast<char*>(op.out[0].data);
  const bool direct = size_ == 2 || bytes <= limits_.direct_bytes;
  const size_t owners = static_cast<size_t>(size_) - 1;
  const size_t piece =
      direct ? bytes
             : std::min(limits_.chunk_bytes,
                        (ceil_div(bytes, owners) + kAlignment - 1) / kAlignment * kAlignment);
  size_t turn = 0;
  for (size_t at = 0; at < bytes; at += piece, ++turn) {
    const size_t length = std::min(piece, bytes - at);
    // The ranks that get it from the root; the first of them passes it on.
    const int owner = (op.root + 1 + static_cast<int>(turn % owners)) % size_;
    if (on_root(op)) {
      for (int d = 1; d < size_; ++d) {
        if (direct || peer(d) == owner) send(peer(d), data + at, length, kNoStep, kNoStep);
      }
    } else if (direct) {
      recv(op.root, data + at, length, kNoStep, kNoStep);
    } else if (rank_ == owner) {
      const int here = add_step(0, nullptr, 0);
      recv(op.root, data + at, length, kNoStep, here);
      for (int d = 1; d < size_; ++d) {
        if (peer(d) != op.root) send(peer(d), data + at, length, here, kNoStep);
      }
    } else {
      recv(owner, data + at, length, kNoStep, kNoStep);
    }
  }
}

// Everybody (or only the root) gets all inputs and adds them.
void Planner::reduce_direct(const Collective& op, size_t index) {
  const size_t bytes = op.in[0].count * dtype_size(op.dtype);
  if (bytes == 0) return;
  const bool all = op.kind == OpKind::kAllReduce;
  if (!all && !on_root(op)) return send(op.root, op.in[0].data, bytes, kNoStep, kNoStep);
  const int step = add_step(index, op.out[0].data, op.in[0].count);
  plan_.steps[step].sources.assign(size_, op.in[0].data);
  for (int d = 1; d < size_; ++d) {
    // The sum may overwrite the input, so it waits until the input has been sent.
    if (all) send(peer(d), op.in[0].data, bytes, kNoStep, step);
    const int from = peer(size_ - d);
    char* slot = scratch_.reserve(bytes);
    plan_.steps[step].sources[from] = slot;
    recv(from, slot, bytes, kNoStep, step);
  }
}

// The message is cut into segments of one chunk a rank. Of each segment, rank r adds chunk r. The
// sums of a segment travel behind the inputs of some later ones, so that the links never idle.
void Planner::reduce_sliced(const Collective& op, size_t index) {
  const size_t element = dtype_size(op.dtype), count = op.in[0].count;
  const bool all = op.kind == OpKind::kAllReduce;
  const auto* in = static_cast<const char*>(op.in[0].data);
  const bool has_out = all || on_root(op);
  char* out = has_out ? static_cast<char*>(op.out[0].data) : nullptr;
  const size_t ranks = static_cast<size_t>(size_);
  const size_t granule = std::max<size_t>(1, kAlignment / element);
  const size_t per_rank = ceil_div(count, ranks);
  const size_t chunk =
      std::min(limits_.chunk_bytes / element, ceil_div(per_rank, granule) * granule);
  const size_t segments = ceil_div(count, chunk * ranks);
  const size_t lag = std::max<size_t>(1, limits_.window / 2);
  const auto begin = [&](size_t segment, int r) {
    return std::min(count, (segment * ranks + static_cast<size_t>(r)) * chunk);
  };
  const auto length = [&](size_t segment, int r) {
    return std::min(count, begin(segment, r) + chunk) - begin(segment, r);
  };
  char* slots = scratch_.reserve(limits_.window * ranks * chunk * element);
  char* sums = has_out ? nullptr : scratch_.reserve(segments * chunk * element);
  std::vector<int> steps(segments, kNoStep);

  const auto collect = [&](size_t k) {
    const size_t own = length(k, rank_);
    int step = kNoStep;
    if (own > 0) {
      char* target = has_out ? out + begin(k, rank_) * element : sums + k * chunk * element;
      step = add_step(index, target, own);
      plan_.steps[step].sources.assign(ranks, in + begin(k, rank_) * element);
    }
    steps[k] = step;
    for (int d = 1; d < size_; ++d) {
      const int to = peer(d), from = peer(size_ - d);
      send(to, in + begin(k, to) * element, length(k, to) * element, kNoStep, kNoStep);
      if (own == 0) continue;
      char* slot =
          slots + ((k % limits_.window) * ranks + static_cast<size_t>(from)) * chunk * element;
      plan_.steps[step].sources[from] = slot;
      recv(from, slot, own * element, k >= limits_.window ? steps[k - limits_.window] : kNoStep,
           step);
    }
  };
  const auto hand_out = [&](size_t k) {
    const char* sum = has_out ? out + begin(k, rank_) * element : sums + k * chunk * element;
    for (int d = 1; d < size_; ++d) {
      const int to = peer(d), from = peer(size_ - d);
      if (all || to == op.root) {
        send(to, sum, length(k, rank_) * element, steps[k], kNoStep);
      }
      if (all || on_root(op)) {
        recv(from, out + begin(k, from) * element, length(k, from) * element, kNoStep, kNoStep);
      }
    }
  };
  for (size_t k = 0; k < segments; ++k) {
    collect(k);
    if (k >= lag) hand_out(k - lag);
  }
  for (size_t k = segments - std::min(segments, lag); k < segments; ++k) hand_out(k);
}

void Planner::reduce_scatter(const Collective& op, size_t index) {
  const size_t element = dtype_size(op.dtype), chunk = limits_.chunk_bytes / element;
  const size_t ranks = static_cast<size_t>(size_);
  const size_t own = op.out[0].count;
  size_t longest = own;
  for (const Span& span : op.in) longest = std::max(longest, span.count);
  const size_t slot_bytes = std::min(own, chunk) * element;
  char* slots = scratch_.reserve(limits_.window * ranks * slot_bytes);
  std::vector<int> steps;
  for (size_t at = 0, k = 0; at < longest; at += chunk, ++k) {
    const size_t length = at < own ? std::min(chunk, own - at) : 0;
    if (length > 0) {
      const int step = add_step(index, static_cast<char*>(op.out[0].data) + at * element, length);
      plan_.steps[step].sources.assign(ranks,
                                       static_cast<const char*>(op.in[rank_].data) + at * element);
      steps.push_back(step);
    }
    for (int d = 1; d < size_; ++d) {
      const int to = peer(d), from = peer(size_ - d);
      const Span& in = op.in[to];
      if (at < in.count) {
        send(to, static_cast<const char*>(in.data) + at * element,
             std::min(chunk, in.count - at) * element, kNoStep, kNoStep);
      }
      if (length == 0) continue;
      char* slot = slots + ((k % limits_.window) * ranks + static_cast<size_t>(from)) * slot_bytes;
      plan_.steps[steps[k]].sources[from] = slot;
      recv(from, slot, length * element, k >= limits_.window ? steps[k - limits_.window] : kNoStep,
           steps[k]);
    }
  }
}

void Planner::add(const Collective& op, size_t index) {
  switch (op.kind) {
    case OpKind::kBarrier:
      return;
    case OpKind::kBroadcast:
      return broadcast(op);
    case OpKind::kAllReduce:
    case OpKind::kReduce:
      return op.in[0].count * dtype_size(op.dtype) <= limits_.direct_bytes
                 ? reduce_direct(op, index)
                 : reduce_sliced(op, index);
    case OpKind::kAllGather:
      return gather_to_all(op);
    case OpKind::kReduceScatter:
      return reduce_scatter(op, index);
    case OpKind::kAllToAll:
      return exchange(op);
    case OpKind::kGather:
      return gather(op);
    case OpKind::kScatter:
      return scatter(op);
  }
}

}  // namespace

void Scratch::Free::operator()(char* data) const {
  std::free(data);
}

char* Scratch::reserve(size_t bytes) {
  const size_t rounded = std::max(kAlignment, ceil_div(bytes, kAlignment) * kAlignment);
  for (Block& block : blocks_) {
    if (block.used || block.bytes < rounded) continue;
    block.used = true;
    return block.data.get();
  }
  auto* data = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
  if (data == nullptr) throw std::bad_alloc();
  blocks_.push_back({std::unique_ptr<char, Free>(data), rounded, true});
  return data;
}

void Scratch::reset() {
  size_t kept = 0;
  for (Block& block : blocks_) {
    block.used = false;
    kept += block.bytes;
  }
  if (kept > kScratchKept) blocks_.clear();
}

LinkPlan make_plan(std::span<const Collective> ops, int rank, int size, int streams,
                   const PlanLimits& limits, Scratch& scratch) {
  Planner planner(rank, size, streams, limits, scratch);
  for (size_t i = 0; i < ops.size(); ++i) planner.add(ops[i], i);
  return planner.take();
}

}  // namespace convoy::host
