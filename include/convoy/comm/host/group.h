#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/comm/host/collective.h>
#include <convoy/comm/host/node.h>
#include <convoy/rendezvous/store.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace convoy::host {

inline constexpr int kAnySource = -1;

struct GroupOptions {
  std::string name;  // unique in the job and generation, e.g. "tp[0]"; shown in messages
  std::vector<int> global_ranks;  // for messages; empty: 0..size-1
  Nanos join_timeout = std::chrono::seconds(300);
  // After this long in one operation, a warning names the ranks that are missing (once an
  // operation).
  Nanos patience = std::chrono::seconds(5);
  // Once true, the others are not waited for any more: what waits for them to join ends.
  std::shared_ptr<const std::atomic<bool>> stops{};
};

// A point-to-point message on its way. Dropping the last reference before completion cancels it.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Whether it has completed (well or not), without blocking; makes what progress it can.
  virtual bool test() = 0;
  // Blocks until the buffer may be reused (send) or holds the message (receive).
  virtual Status wait(Deadline deadline) = 0;
  // The rank it came from; valid after a receive completed.
  virtual int source() const = 0;
};

// A group of ranks that perform collectives in the same order, and messages in any.
//
// Ownership: holds its Node. Threads: run() calls of one group are serialised by the caller (c10d's
// adaptor has one lane a group); different groups may run at once; post_send/post_recv, abort() and
// error() may be called from any thread at any time. Blocks: create() until all ranks joined, run()
// until this rank's part is done. Ends: the destructor leaves the group (peers that still wait for
// this rank get an error); after abort(), a peer's death or a mismatch every call fails with the
// first cause.
class Group {
 public:
  static Result<std::unique_ptr<Group>> create(std::shared_ptr<Node> node, Store& store, int rank,
                                               int size, const GroupOptions& options);
  virtual ~Group() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Performs the collectives in order, as one operation (one sequence number, one arrival). None of
  // them may read what another one writes.
  // Different op, count, dtype, root or reduction on different ranks: kMismatch on every rank,
  // naming the ranks and what each asked for. Deadline: kDeadlineExceeded naming who has not
  // joined. A dead peer: kAborted within 1 s.
  virtual Status run(std::span<const Collective> ops, Deadline deadline) = 0;

  // Starts a message of `bytes` at `data`, which stays the caller's until the transfer completes.
  // Messages of one (source, tag) arrive in order. Receives fail with kMismatch when the size
  // differs from the message's.
  virtual Result<std::shared_ptr<Transfer>> post_send(const void* data, size_t bytes, int to,
                                                      int tag) = 0;
  virtual Result<std::shared_ptr<Transfer>> post_recv(void* data, size_t bytes, int from,
                                                      int tag) = 0;

  // Fails what runs and all that follows, here and on the other ranks, with kAborted and `reason`.
  virtual void abort(const std::string& reason) = 0;
  // The first cause of failure, or ok.
  virtual Status error() const = 0;
  // Number of run() calls started.
  virtual uint64_t sequence() const = 0;
  // Whether all ranks share this machine's memory (else TCP links are in use).
  virtual bool is_local() const = 0;
};

}  // namespace convoy::host
