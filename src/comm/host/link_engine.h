#pragma once

#include "src/comm/host/link_plan.h"
#include "src/comm/host/link_signature.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/comm/host/collective.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <sys/uio.h>
#include <vector>

namespace convoy::host {

// Performs collectives over TCP connections of its own: `streams` to every other rank. The calling
// thread drives all of them at once with one epoll, sending and receiving whatever is possible, so
// that no order of arrival can block; it sleeps when nothing is.
//
// An operation begins with a header to every rank: sequence number and request. The bytes follow at
// once; nobody waits for an agreement, because a plan only ever writes to its own rank's memory. A
// rank is done when it has all headers and bytes, and the kernel has taken its own.
//
// Threads: run() by one thread at a time; stop() by any. After a failure the streams are of no use
// any more: the owner makes the group fail.
class LinkEngine {
 public:
  struct Options {
    std::string group;              // name, for messages
    std::vector<int> global_ranks;  // for messages
    Nanos patience{};
    PlanLimits limits;
  };

  // `streams[r][s]`: connected non-blocking sockets to rank r; empty for the rank itself.
  static Result<std::unique_ptr<LinkEngine>> create(int rank,
                                                    std::vector<std::vector<UniqueFd>> streams,
                                                    Options options);
  ~LinkEngine();

  // kAborted without a text of its own when stop() was called: the caller knows the cause.
  Status run(std::span<const Collective> ops, uint64_t sequence, Deadline deadline);
  // Makes run() return soon, now and from now on.
  void stop();

  static constexpr size_t kSignatureBytesMax = size_t{4} << 20;

 private:
  struct Stream;
  struct Operation;

  LinkEngine(int rank, int size, Options options);
  Status watch();
  Status begin(std::span<const Collective> ops, uint64_t sequence);
  bool pump(Stream& stream);
  bool pump_out(Stream& stream);
  bool pump_in(Stream& stream);
  void sent(Stream& stream, size_t bytes);
  bool wants_bytes(const Stream& stream) const;
  bool take_header(Stream& stream);
  bool read_staging(Stream& stream);
  bool read_items(Stream& stream);
  size_t receive(Stream& stream, const iovec* vector, int count);
  size_t deliver(Stream& stream, const char* data, size_t bytes);
  void count_down(int step);
  void run_step(ReduceStep& step);
  void broken(Stream& stream, const std::string& why);
  bool blocked(int step) const;
  bool finished() const;
  Status settle_headers();
  Status wait(Deadline deadline);
  Status late(Deadline deadline);
  std::string missing_text() const;
  std::string operation_text() const;
  int name_of(int rank) const { return options_.global_ranks[rank]; }

  const int rank_;
  const int size_;
  const Options options_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::atomic<bool> stopped_{false};
  std::vector<std::vector<std::unique_ptr<Stream>>> streams_;  // [rank][stream]
  std::vector<Stream*> all_;
  Scratch scratch_;
  std::unique_ptr<Operation> operation_;  // of the run() in progress
};

}  // namespace convoy::host
