#pragma once

#include "src/comm/host/reduce_kernels.h"
#include "src/comm/host/shm_core.h"
#include <convoy/comm/host/group.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace convoy::host {

// What one rank posted of one collective.
struct RankOp {
  const OpRecord* op = nullptr;
  const SpanRecord* in = nullptr;
  const SpanRecord* out = nullptr;
  const char* payload = nullptr;  // inline operations only
};

// A group whose ranks share this machine's memory.
//
// An operation: every rank posts descriptors of its buffers (and, if small, its data), arrives, and
// after all have arrived compares signatures. Small: each computes its own result from the
// postings. Large: shm_large.cc.
class ShmGroup final : public Group {
 public:
  explicit ShmGroup(std::shared_ptr<ShmCore> core);
  ~ShmGroup() override;

  int rank() const override { return core_->rank(); }
  int size() const override { return core_->size(); }
  Status run(std::span<const Collective> ops, Deadline deadline) override;
  Result<std::shared_ptr<Transfer>> post_send(const void* data, size_t bytes, int to,
                                              int tag) override;
  Result<std::shared_ptr<Transfer>> post_recv(void* data, size_t bytes, int from, int tag) override;
  void abort(const std::string& reason) override;
  Status error() const override { return core_->error(); }
  uint64_t sequence() const override { return sequence_.load(); }
  bool is_local() const override { return true; }

 private:
  using Operation = ShmCore::Operation;
  Result<std::shared_ptr<Transfer>> post_transfer(bool sends, void* data, size_t bytes, int peer,
                                                  int tag);
  Status check_arguments(std::span<const Collective> ops);
  Status post(std::span<const Collective> ops, Operation& op);
  void write_records(std::span<const Collective> ops, char* to) const;
  void write_payload(std::span<const Collective> ops, char* to) const;
  bool needs_stage(std::span<const Collective> ops) const;
  Status perform(std::span<const Collective> ops, Operation& op);
  Status compare_signatures(std::span<const Collective> ops, Operation& op);
  bool sizes_agree(const Collective& mine) const;
  Status mismatch(std::span<const Collective> ops, Operation& op);
  void open_posting(int r);
  void open_postings();
  void next_op(int r, const Collective& mine, bool with_payload);
  void next_op(const Collective& mine, bool with_payload);
  void run_inline(const Collective& mine, ReduceKernel kernel);
  Posting& posting(int r) { return core_->area().posting(r, parity_); }

  std::shared_ptr<ShmCore> core_;
  std::atomic<uint64_t> sequence_{0};
  // Of the running operation:
  uint32_t parity_ = 0;
  std::vector<ReduceKernel> kernels_;  // one a collective, null where nothing is reduced
  std::vector<const char*> records_;   // where each rank's next OpRecord lies
  std::vector<const char*> payloads_;  // and its payload
  std::vector<RankOp> ranks_;          // the collective at hand, as each rank posted it
  char* record_block_ = nullptr;       // of our heap: descriptors that don't fit in a posting
  size_t record_capacity_ = 0;
  std::vector<char*> stages_;  // each rank's staging area, or null
  char* stage_ = nullptr;      // of our heap, while an operation needs it
};

// Performs one large collective after arrival; the last barrier inside means that all are done.
struct LargeOp {
  ShmCore& core;
  ShmCore::Operation& op;
  const Collective& mine;
  ReduceKernel kernel;
  std::span<const RankOp> ranks;  // as posted
  std::span<char* const> stages;  // each rank's staging area, or null
  bool first_staged;              // stage_first() was called for it, on all ranks
};
// Before arrival, when ranks and stages hold only this rank's: saves a barrier.
void stage_first(const LargeOp& large);
Status run_large(const LargeOp& large);
inline constexpr size_t kStageBytes = 1024 * 1024;  // of a rank that has private buffers

}  // namespace convoy::host
