// One operation of a local group, from posting to the comparison of what the ranks asked for; small
// operations to their end.
#include "src/comm/host/shm_group.h"

#include "src/comm/host/copy.h"
#include "src/comm/host/request.h"
#include <convoy/base/check.h>

#include <algorithm>
#include <cstring>

namespace convoy::host {
namespace {

constexpr size_t kPayloadAlign = 64;
constexpr Nanos kRequestWait = std::chrono::seconds(2);  // for the other ranks' texts

size_t total_count(const std::vector<Span>& spans) {
  size_t count = 0;
  for (const Span& span : spans) count += span.count;
  return count;
}

size_t record_bytes(std::span<const Collective> ops) {
  size_t bytes = 0;
  for (const Collective& op : ops) {
    bytes += sizeof(OpRecord) + (op.in.size() + op.out.size()) * sizeof(SpanRecord);
  }
  return bytes;
}

// The buffers whose content this rank contributes.
const std::vector<Span>& contributed(const Collective& op, int rank) {
  static const std::vector<Span> none;
  switch (op.kind) {
    case OpKind::kBarrier:
      return none;
    case OpKind::kBroadcast:
      return rank == op.root ? op.out : none;
    case OpKind::kScatter:
      return rank == op.root ? op.in : none;
    default:
      return op.in;
  }
}

size_t payload_bytes(const Collective& op, int rank) {
  return total_count(contributed(op, rank)) * dtype_size(op.dtype);
}

// Whether only pairs of ranks know the sizes of what they exchange.
bool sizes_by_pair(OpKind kind) {
  return kind == OpKind::kAllToAll || kind == OpKind::kGather || kind == OpKind::kScatter;
}

// What the decision between small and large rests on: the same on all ranks where all know the
// sizes, else this rank's own payload (then a single large one makes it large for all).
size_t deciding_bytes(const Collective& op, int rank) {
  size_t count = 0;
  switch (op.kind) {
    case OpKind::kBroadcast:
      count = total_count(op.out);
      break;
    case OpKind::kAllGather:
      for (const Span& span : op.out) count = std::max(count, span.count);
      break;
    default:
      return payload_bytes(op, rank);
  }
  return count * dtype_size(op.dtype);
}

}  // namespace

ShmGroup::ShmGroup(std::shared_ptr<ShmCore> core) : core_(std::move(core)) {
  const auto n = static_cast<size_t>(core_->size());
  records_.resize(n);
  payloads_.resize(n);
  ranks_.resize(n);
  stages_.resize(n);
}

ShmGroup::~ShmGroup() {
  core_->leave();
  core_->heap().deallocate(record_block_);
}

void ShmGroup::abort(const std::string& reason) {
  (void)core_->fail(
      Status(Code::kAborted, "group " + core_->options().name + " was aborted by rank " +
                                 std::to_string(core_->global_rank(rank())) + ": " + reason));
}

Status ShmGroup::run(std::span<const Collective> ops, Deadline deadline) {
  CONVOY_RETURN_IF_ERROR(core_->error());
  if (ops.empty()) {
    return Status(Code::kInvalidArgument, "run() needs at least one collective");
  }
  CONVOY_RETURN_IF_ERROR(check_arguments(ops));
  Operation op;
  op.kind = ops[0].kind;
  op.count = ops.size();
  op.sequence = sequence_.fetch_add(1) + 1;
  op.first_phase = core_->phase() + 1;
  op.deadline = deadline;
  core_->begin(op);
  core_->self().busy.store(1);
  parity_ = static_cast<uint32_t>(op.sequence) & 1;
  const Status posted = post(ops, op);
  const Status done = posted.ok() ? perform(ops, op) : core_->fail(posted);
  if (!done.ok()) {
    core_->drain(op.first_phase);
  } else {
    core_->self().busy.store(0, std::memory_order_release);
  }
  if (stage_ != nullptr) {
    core_->heap().deallocate(stage_);
    stage_ = nullptr;
  }
  core_->end();
  return done;
}

Status ShmGroup::check_arguments(std::span<const Collective> ops) {
  kernels_.assign(ops.size(), nullptr);
  for (size_t i = 0; i < ops.size(); ++i) {
    if (!reduces(ops[i].kind)) continue;
    auto kernel = find_reduce_kernel(ops[i].dtype, ops[i].reduce);
    if (!kernel.ok()) {
      return kernel.status().with_context(std::string(op_name(ops[i].kind)) + " in group " +
                                          core_->options().name);
    }
    kernels_[i] = *kernel;
  }
  return ok_status();
}

// Makes known what this rank asks for, and if it is small, its data.
Status ShmGroup::post(std::span<const Collective> ops, Operation& op) {
  const size_t records = record_bytes(ops);
  size_t payload = 0;
  for (const Collective& each : ops) payload += deciding_bytes(each, rank());
  const size_t payload_at = (records + kPayloadAlign - 1) / kPayloadAlign * kPayloadAlign;
  const bool small = payload_at + payload <= kInlineBytes;
  Posting& mine = posting(rank());
  mine.signature = signature_of(ops, rank(), size());
  mine.record_bytes = static_cast<uint32_t>(records);
  mine.record_offset = kPrivate;
  mine.stage_offset = kPrivate;
  mine.payload_at = small ? static_cast<uint32_t>(payload_at) : 0;
  if (records <= kInlineBytes) {
    write_records(ops, mine.data);
  } else {
    if (record_capacity_ < records) {
      // The old block may be freed: all ranks have arrived since they read it.
      core_->heap().deallocate(record_block_);
      record_capacity_ = 2 * records;
      record_block_ = static_cast<char*>(core_->heap().allocate(2 * record_capacity_));
      if (record_block_ == nullptr) {
        record_capacity_ = 0;
        return core_->no_memory(
            2 * records, "descriptors of " + op.name() + " of group " + core_->options().name);
      }
    }
    char* block = record_block_ + parity_ * record_capacity_;
    write_records(ops, block);
    mine.record_offset = core_->heap().offset_of(block);
  }
  if (small) write_payload(ops, mine.data + payload_at);
  const bool all_small = small && std::none_of(ops.begin(), ops.end(), [](const Collective& op) {
                           return sizes_by_pair(op.kind);
                         });
  if (!all_small && needs_stage(ops)) {
    stage_ = static_cast<char*>(core_->heap().allocate(kStageBytes));
    if (stage_ == nullptr)
      return core_->no_memory(kStageBytes,
                              "staging for " + op.name() + " of group " + core_->options().name);
    mine.stage_offset = core_->heap().offset_of(stage_);
    if (ops.size() == 1 && is_consistent(ops[0], rank(), size())) {
      open_posting(rank());
      next_op(rank(), ops[0], false);
      stages_[rank()] = stage_;
      stage_first({*core_, op, ops[0], nullptr, ranks_, stages_, false});
    }
  }
  return ok_status();
}

void ShmGroup::write_records(std::span<const Collective> ops, char* to) const {
  Heap& heap = core_->heap();
  for (const Collective& op : ops) {
    const OpRecord record{op.kind,
                          op.dtype,
                          op.reduce,
                          0,
                          op.root,
                          op.premul,
                          static_cast<uint32_t>(op.in.size()),
                          static_cast<uint32_t>(op.out.size())};
    std::memcpy(to, &record, sizeof record);
    to += sizeof record;
    const size_t element = dtype_size(op.dtype);
    for (const auto* spans : {&op.in, &op.out}) {
      for (const Span& span : *spans) {
        SpanRecord posted{span.count, kPrivate};
        if (span.count == 0) {
          posted.offset = 0;  // nothing is moved: as good as shared
        } else if (heap.contains(span.data, span.count * element)) {
          posted.offset = heap.offset_of(span.data);
        }
        std::memcpy(to, &posted, sizeof posted);
        to += sizeof posted;
      }
    }
  }
}

void ShmGroup::write_payload(std::span<const Collective> ops, char* to) const {
  for (const Collective& op : ops) {
    for (const Span& span : contributed(op, rank())) {
      const size_t bytes = span.count * dtype_size(op.dtype);
      if (bytes != 0) std::memcpy(to, span.data, bytes);
      to += bytes;
    }
  }
}

bool ShmGroup::needs_stage(std::span<const Collective> ops) const {
  for (const Collective& op : ops) {
    const size_t element = dtype_size(op.dtype);
    for (const auto* spans : {&op.in, &op.out}) {
      for (const Span& span : *spans) {
        if (span.count != 0 && !core_->heap().contains(span.data, span.count * element)) {
          return true;
        }
      }
    }
  }
  return false;
}

// Arrives, compares, and does the work.
Status ShmGroup::perform(std::span<const Collective> ops, Operation& op) {
  CONVOY_RETURN_IF_ERROR(core_->barrier(op));
  CONVOY_RETURN_IF_ERROR(compare_signatures(ops, op));
  open_postings();
  bool small = true;
  for (int r = 0; r < size(); ++r) small = small && posting(r).payload_at != 0;
  // Ranks must not touch each other's memory after a rank has given up (see drain).
  if (!small && core_->failed()) return core_->error();
  for (int r = 0; r < size() && !small; ++r) {
    const uint64_t offset = posting(r).stage_offset;
    stages_[r] = offset == kPrivate ? nullptr : core_->at(r, offset, kStageBytes);
  }
  // Sizes that only pairs of ranks know: all are compared before anything is moved.
  for (const Collective& mine : ops) {
    next_op(mine, false);
    if (!sizes_agree(mine)) return mismatch(ops, op);
  }
  open_postings();
  for (size_t i = 0; i < ops.size(); ++i) {
    next_op(ops[i], small);
    if (small) {
      run_inline(ops[i], kernels_[i]);
    } else {
      CONVOY_RETURN_IF_ERROR(
          run_large({*core_, op, ops[i], kernels_[i], ranks_, stages_, ops.size() == 1}));
    }
  }
  return ok_status();
}

Status ShmGroup::compare_signatures(std::span<const Collective> ops, Operation& op) {
  const uint64_t mine = posting(rank()).signature;
  bool equal = true;
  for (int r = 0; r < size(); ++r) equal = equal && posting(r).signature == mine;
  // A group of one has nobody to disagree with, but may ask for nonsense.
  if (size() == 1) {
    for (const Collective& c : ops) equal = equal && is_consistent(c, 0, 1);
  }
  return equal ? ok_status() : mismatch(ops, op);
}

// Every rank comes here, because every rank has read the same postings.
Status ShmGroup::mismatch(std::span<const Collective> ops, Operation& op) {
  RankState& self = core_->self();
  const std::string text =
      describe(ops, [this](int r) { return core_->global_rank(r); }).substr(0, kRequestBytes - 1);
  std::memcpy(self.request_text, text.c_str(), text.size() + 1);
  self.request.store(op.first_phase, std::memory_order_release);
  const Deadline limit = Deadline::after(kRequestWait);
  std::vector<std::pair<std::string, std::vector<int>>> groups;
  for (int r = 0; r < size(); ++r) {
    const RankState& other = core_->area().rank(r);
    while (other.request.load(std::memory_order_acquire) != op.first_phase && !limit.passed() &&
           !core_->is_gone(r)) {
      Clock::system().sleep_for(std::chrono::microseconds(50));
    }
    const bool told = other.request.load(std::memory_order_acquire) == op.first_phase;
    const std::string asked = told ? other.request_text : "(no answer)";
    auto same = std::find_if(groups.begin(), groups.end(),
                             [&](const auto& group) { return group.first == asked; });
    if (same == groups.end()) same = groups.insert(groups.end(), {asked, {}});
    same->second.push_back(r);
  }
  std::string message = "the ranks of group " + core_->options().name + " disagree in operation #" +
                        std::to_string(op.sequence) + ": ";
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto& [asked, who] = groups[i];
    message += (i == 0 ? "" : "; ") + std::string(who.size() == 1 ? "rank " : "ranks ") +
               core_->names_of(who) + ": " + asked;
  }
  return core_->fail(Status(Code::kMismatch, message));
}

void ShmGroup::open_posting(int r) {
  const Posting& posted = posting(r);
  records_[r] = posted.record_offset == kPrivate
                    ? posted.data
                    : core_->at(r, posted.record_offset, posted.record_bytes);
  payloads_[r] = posted.data + posted.payload_at;
}

void ShmGroup::open_postings() {
  for (int r = 0; r < size(); ++r) open_posting(r);
}

void ShmGroup::next_op(const Collective& mine, bool with_payload) {
  for (int r = 0; r < size(); ++r) next_op(r, mine, with_payload);
}

// Steps to the next collective in rank r's posting.
void ShmGroup::next_op(int r, const Collective& mine, bool with_payload) {
  RankOp& posted = ranks_[r];
  posted.op = reinterpret_cast<const OpRecord*>(records_[r]);
  posted.in = reinterpret_cast<const SpanRecord*>(posted.op + 1);
  posted.out = posted.in + posted.op->n_in;
  records_[r] = reinterpret_cast<const char*>(posted.out + posted.op->n_out);
  if (!with_payload) return;
  posted.payload = payloads_[r];
  const bool root_only = mine.kind == OpKind::kBroadcast || mine.kind == OpKind::kScatter;
  if (mine.kind == OpKind::kBarrier || (root_only && r != mine.root)) return;
  const bool from_out = mine.kind == OpKind::kBroadcast;
  const SpanRecord* spans = from_out ? posted.out : posted.in;
  const uint32_t n = from_out ? posted.op->n_out : posted.op->n_in;
  for (uint32_t i = 0; i < n; ++i) payloads_[r] += spans[i].count * dtype_size(mine.dtype);
}

bool ShmGroup::sizes_agree(const Collective& mine) const {
  const int n = core_->size();
  const RankOp* root = has_root(mine.kind) ? &ranks_[mine.root] : nullptr;
  for (int s = 0; s < n; ++s) {
    if (mine.kind == OpKind::kGather && ranks_[s].in[0].count != root->out[s].count) return false;
    if (mine.kind == OpKind::kScatter && ranks_[s].out[0].count != root->in[s].count) return false;
    if (mine.kind != OpKind::kAllToAll) continue;
    for (int d = 0; d < n; ++d) {
      if (ranks_[s].in[d].count != ranks_[d].out[s].count) return false;
    }
  }
  return true;
}

namespace {

// Reduces `count` elements that begin `skip` elements into every rank's payload.
void reduce_payloads(const std::vector<RankOp>& ranks, ReduceKernel kernel, size_t element,
                     size_t skip, size_t count, void* out) {
  std::vector<const void*> in(ranks.size());
  std::vector<double> factors(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) {
    in[r] = ranks[r].payload + skip * element;
    factors[r] = ranks[r].op->premul;
  }
  kernel({in.data(), in.size(), factors.data(), count, &out, 1, false});
}

void copy_out(const Span& to, const char* from, size_t element) {
  if (to.count != 0) std::memcpy(to.data, from, to.count * element);
}

}  // namespace

void ShmGroup::run_inline(const Collective& mine, ReduceKernel kernel) {
  const size_t element = dtype_size(mine.dtype);
  const int me = rank(), n = size();
  // Where the part for rank `to` begins in the payload of rank `from`, in elements.
  const auto part = [this](int from, int to) {
    size_t skip = 0;
    for (int i = 0; i < to; ++i) skip += ranks_[from].in[i].count;
    return skip;
  };
  switch (mine.kind) {
    case OpKind::kBarrier:
      return;
    case OpKind::kBroadcast:
      if (me != mine.root) copy_out(mine.out[0], ranks_[mine.root].payload, element);
      return;
    case OpKind::kReduce:
      if (me != mine.root) return;
      [[fallthrough]];
    case OpKind::kAllReduce:
      return reduce_payloads(ranks_, kernel, element, 0, mine.in[0].count, mine.out[0].data);
    case OpKind::kReduceScatter:
      return reduce_payloads(ranks_, kernel, element, part(me, me), mine.out[0].count,
                             mine.out[0].data);
    case OpKind::kAllGather:
    case OpKind::kGather:
      if (mine.kind == OpKind::kGather && me != mine.root) return;
      for (int r = 0; r < n; ++r) copy_out(mine.out[r], ranks_[r].payload, element);
      return;
    case OpKind::kAllToAll:
      for (int r = 0; r < n; ++r) {
        copy_out(mine.out[r], ranks_[r].payload + part(r, me) * element, element);
      }
      return;
    case OpKind::kScatter:
      return copy_out(mine.out[0], ranks_[mine.root].payload + part(mine.root, me) * element,
                      element);
  }
}

}  // namespace convoy::host
