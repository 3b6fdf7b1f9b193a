#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// What `convoy run` does: starts the ranks of one machine, keeps and shows their output, and ends
// all of them together.
namespace convoy::launch {

// Exit codes of `convoy run` beside the ranks' own. From sysexits.h where it has a fitting one, so
// that they stay clear of the small codes that programs use.
inline constexpr int kExitOk = 0;             // every rank ended with 0
inline constexpr int kExitUsage = 64;         // bad option or input; nothing was started
inline constexpr int kExitUnavailable = 69;   // port in use
inline constexpr int kExitInternal = 70;      // the launcher itself failed
inline constexpr int kExitNotWritten = 74;    // every rank ended with 0; a checkpoint was lost
inline constexpr int kExitFindings = 76;      // a rehearsal found mistakes; every rank ended with 0
inline constexpr int kExitCantExecute = 126;  // PROGRAM is no executable file
inline constexpr int kExitNotFound = 127;     // no such PROGRAM
inline constexpr int kExitSignalBase = 128;   // + n: ended by signal n (Ctrl-C: 130)

// Ranks run on the stand-in for CUDA and NCCL in place of GPUs (docs/REHEARSAL.md).
struct Rehearsal {
  int gpus = 0;  // simulated on this machine, 1 to 16; 0: one for each of its ranks
  uint64_t gpu_memory = uint64_t{2} << 30;  // bytes of each, for each process
  // What decides delays and order where CUDA leaves them open; 0 holds nothing back.
  uint64_t seed = 0;
};

// Keeps others out of what a job's machines say to each other. Files; all empty: whoever reaches a
// port is heard. All machines need the same ones, each with a certificate of its own.
struct Protection {
  std::string token_file;               // both sides know its first line
  std::string certificate, key, roots;  // PEM, for mutual TLS
  bool empty() const {
    return token_file.empty() && certificate.empty() && key.empty() && roots.empty();
  }
};

// What ranks record is brought together while they run: see docs/trace.md.
struct Tracing {
  std::string program;     // `convoy`
  std::string folder;      // for run.trace and report.html; "": trace/ in the run folder
  std::string aggregator;  // HOST:PORT of one that runs elsewhere; "": the first machine starts one
  // Of the one that is started; 0: any free one, on several machines the store's port plus 1.
  uint16_t port = 0;
  Protection protection;
};

struct LaunchOptions {
  std::vector<std::string> program;  // PROGRAM and its arguments
  int ranks = 1;                     // on this machine
  std::string mesh;                  // for CONVOY_MESH; checked by the caller; may be empty
  int nodes = 1;                     // machines of the job, each with `ranks` ranks
  int node_rank = 0;                 // this machine, 0 … nodes - 1
  std::string master_addr = "127.0.0.1";
  uint16_t port = 0;   // of the job's store; 0: a free one (one machine only)
  std::string output;  // run folder; "": runs/<job id> under the current folder
  int threads = 0;     // OMP_NUM_THREADS; 0: what is set, else max(1, cores / ranks)
  std::vector<std::pair<std::string, std::string>> environment;  // wins over what Convoy sets
  bool prefix = true;                                            // "[3] " before rank 3's lines
  bool json = false;  // events as JSON lines on stdout, ranks' output on stderr
  Nanos grace = std::chrono::seconds(10);  // between Ctrl-C's forwarding and SIGKILL
  std::optional<Rehearsal> rehearsal;
  std::optional<Tracing> tracing;
  // The program `convoy`, which is the machine's agent too; "": no agent, and ranks can't save.
  std::string agent_program;
  // The job's end waits for checkpoints to be written, unless nothing is written for so long.
  Nanos drain_timeout = std::chrono::minutes(2);
  // Ranks that can are led on without one that has failed: docs/recovery.md. False: a death ends
  // the job, as it does where ranks don't ask to be led.
  bool recover = true;
  std::string etcd{};  // where control state is, so that any machine may lead; see SuperviseOptions
  int min_dp = 1;      // data-parallel replicas with which it goes on while machines are missing
  std::string webhook{};  // a URL that is told of incidents and the job's end; "": nobody
  std::string metrics{};  // [ADDRESS:]PORT where the supervisor serves /metrics; "": nowhere
  int spares = 0;         // started beside the ranks, to take the place of one that fails
  // Of several machines: where the first one's supervisor listens; 0: the store's port plus 2.
  uint16_t control_port = 0;
  Protection protection;  // of the lines to the supervisor
};

// Runs the job and blocks until every process that it started is gone; returns the exit code.
//
// Processes: the caller's process stays a small guardian and forks the launcher proper, which forks
// the ranks. Both adopt orphans (child subreapers) and watch each other, so that kill -9 of either
// one ends every rank and what ranks started. Each rank has its own process group, and stdin
// /dev/null. Call it from a process with one thread.
//
// The agent, which keeps what ranks save, is started when the first of them connects to
// CONVOY_AGENT, and again if it dies. It is ended last: once ranks have gone it gets the time to
// write what they saved, also when either of the two processes was killed.
//
// Files: <run folder>/logs/rank_N.log and agent_N.log (N: node_rank), appended to; of a rehearsal
// <run folder>/rehearsal/rank_N/, in place of an earlier one's; of a trace logs/trace_N.log and its
// folder's; nothing anywhere else.
//
// A job that is traced has one more process, a child of the launcher, which ends after the ranks.
// Whatever becomes of it, the job's course and exit code are the same; one line tells.
//
// A rehearsal ends with a summary of what this machine's ranks found, however the job ended.
//
// Ends: when all ranks have ended; when one dies (code other than 0, or a signal) the others get
// SIGTERM and then SIGKILL within 1 s, and the message names the first that died. SIGINT, SIGTERM
// and SIGHUP are forwarded, SIGKILL follows after the grace time or at once on a second one.
//
// Fails before anything is started: kInvalidArgument; kAlreadyExists (port in use); kNotFound and
// kFailedPrecondition (PROGRAM is missing, or not executable).
Result<int> launch(const LaunchOptions& options);

// The exit code for a launch() that failed.
int exit_code_of(const Status& status);

}  // namespace convoy::launch
