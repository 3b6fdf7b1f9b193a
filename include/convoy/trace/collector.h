#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/rpc/message.h>
#include <convoy/trace/event.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>

// A node's side of the tracer: reads what the ranks of this machine record, and sends it on.
namespace convoy::trace {

struct CollectorOptions {
  std::string aggregator;  // HOST:PORT
  rpc::ConnectionOptions connection;
  // A name keeps processes of other jobs out (those whose CONVOY_JOB_ID is another). Generation and
  // size follow the ranks'; the mesh is told as it is given.
  JobInfo job;
  std::string host;         // this machine in what is sent; empty: its name
  bool look_around = true;  // find processes that record by themselves; else only watch() tells
  // The parent of those that are watched tells how they end: see ended(). It knows in which order
  // they do, which decides who is to blame, and older kernels tell nobody else.
  bool parent_tells = false;
  Nanos period = std::chrono::milliseconds(250);  // between two looks at a rank
  Nanos last_words = std::chrono::seconds(1);     // of the destructor, for what is not sent yet
  // Of what waits for the aggregator; beyond it the deepest level is given up first.
  size_t buffer_bytes_max = size_t{64} << 20;
};

struct CollectorStats {
  uint32_t ranks = 0;  // that live
  bool connected = false;
  uint64_t events = 0;             // read
  uint64_t sent_bytes = 0;         // bodies and headers, packed
  uint64_t acknowledged = 0;       // messages
  uint64_t connections = 0;        // made so far
  std::array<uint64_t, 3> shed{};  // events given up: details, spans, operations
  size_t buffered_bytes = 0;
};

// Works on a thread of its own. What a process has recorded is read to the end also after its
// death. Nothing is lost while the aggregator can't be reached, until the buffer is full. All
// methods may be called by any thread.
class Collector {
 public:
  // Opens libconvoy_cluster, which holds gRPC. Returns at once, whether or not there is an
  // aggregator. kFailedPrecondition: no such library; kInvalidArgument: options, TLS files.
  static Result<std::unique_ptr<Collector>> start(const CollectorOptions& options);
  // Stops: reads and sends what is there, for at most `last_words`.
  virtual ~Collector() = default;
  // A process that records, or soon will, or starts another one that does: it is looked for until
  // it has ended.
  virtual void watch(int pid) = 0;
  // How a process has ended, as its parent learned it from wait(), and when (CLOCK_MONOTONIC, ns).
  virtual void ended(int pid, int wait_status, int64_t time) = 0;
  // The job is being ended on purpose: whoever dies from now on is still told to run.
  virtual void stopped() = 0;
  // The mesh, when it becomes known.
  virtual void set_job(const JobInfo& job) = 0;
  virtual CollectorStats stats() const = 0;
};

}  // namespace convoy::trace
