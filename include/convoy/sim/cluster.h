#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// A cluster under training, simulated: what every rank's tracer would tell, and apart from it what
// is really wrong. Pure: no clock, no I/O; the same configuration and seed give the same events.
//
// Ranks run the program of their pipeline stage. A collective ends when its last member has come
// and the slowest edge of its ring has carried its part; a message when both sides are ready. So a
// delay spreads exactly along the dependencies, and a hang leaves each victim where it would be.
namespace convoy::sim {

struct Model {
  int layers = 32;
  int hidden = 4096;
  int sequence = 4096;
  int micro_batches = 8;     // of one rank and step
  int micro_batch_size = 1;  // sequences
  int tp_collectives = 2;    // into which those of a micro-batch's layers are gathered, each way
  int buckets = 4;           // of gradients, reduced while the last backward runs
  bool sharded_optimizer = true;  // reduce-scatter and all-gather instead of all-reduce
  double flops = 400e12;          // that a rank computes in a second
  double launch_share = 0.35;     // time of the host to hand over work, to that of the work
  double data_ms = 8;             // reading the samples of a step
  double optimizer_ms = 6;
  double checkpoint_s = 0.4;  // what a checkpoint keeps the training
};

struct Network {
  double intranode_bytes_per_s = 300e9;
  double internode_bytes_per_s = 50e9;
  double intranode_latency_us = 4;
  double internode_latency_us = 12;
  int hosts_per_leaf = 4;  // under one switch
};

struct Clocks {
  bool uptimes = true;         // hosts count from their own start; else from the epoch
  double offset_ms = 5;        // ±, on top
  double drift_us_per_s = 30;  // ±
  double sample_period_s = 2;
  double round_trip_us = 100;  // of a sample; its error bound is what that allows
};

// How the events are told.
struct Telemetry {
  double period_s = 1;        // between the batches of a rank
  double loss = 0;            // share of the events that is lost; counted in RankState::lost
  double late_share = 0.002;  // of batches that arrive late …
  double late_s = 5;          // … by up to so much; later batches of the rank wait for them
  bool spans = true;
  bool details = true;  // spans `launch` and `kernel`
  bool counters = true;
};

// One thing that is wrong, or a legitimate change (decoy). What is left at its default is chosen:
// the target from the seed, sizes as fault_help() says.
struct Fault {
  trace::Class cls = trace::Class::kUnknown;
  int rank = -1;               // the culprit; sender of a link
  int peer = -1;               // receiver of a link
  int host = -1;               // number of it
  int stage = -1;              // pipeline stage
  double factor = 0;           // how many times as long (compute, transfers, launches)
  double seconds = 0;          // of a stall, a pause; of a clock's step
  uint32_t from = 0;           // first step, from 1 on
  uint32_t until = 0;          // last step; 0: to the end
  uint32_t every = 0;          // steps from one occurrence to the next
  double on_s = 0, off_s = 0;  // of periodic ones
  bool whole_host = false;     // of a crash: nothing more is told by any of its ranks
};

struct Cluster {
  std::string mesh = "tp=8,dp=4";  // sizes of dimensions, as Mesh::parse() reads them, without '*'
  int ranks_per_host = 8;
  Model model;
  std::string schedule = "1f1b";  // gpipe, 1f1b, interleaved
  int chunks = 1;                 // of interleaved: virtual stages of a rank
  Network network;
  Clocks clocks;
  Telemetry telemetry;
  uint64_t seed = 1;
  uint32_t steps = 50;
  double compute_jitter = 0.05;  // sigma of the logarithm, for each operation
  double network_jitter = 0.10;
  double static_jitter = 0.005;   // ranks differ for good
  uint32_t checkpoint_every = 0;  // steps; 0: never
  uint32_t evaluate_every = 0;    // steps; 0: never
  uint32_t more_work_from = 0;    // from this step on, more micro-batches; 0: never
  double more_work = 1.5;
  uint32_t resize_at = 0;  // after this step the job goes on with another mesh; 0: never
  std::string resize_mesh;
  double after_hang_s = 20;  // heartbeats go on for so long after a hang
  std::vector<Fault> faults;
};

// What is wrong, for whoever scores a diagnosis. Times on the root's clock.
struct Truth {
  trace::Class cls = trace::Class::kUnknown;
  trace::Culprit culprit;
  int64_t onset = 0;
  uint32_t step = 0;  // in which it began
};

struct Outcome {
  std::vector<Truth> truths;
  bool hung = false;
  uint32_t hosts = 0;
  int64_t begin = 0, end = 0;                                     // on the root's clock
  std::vector<int64_t> step_ends;                                 // the same, of the last rank
  uint64_t batches = 0, operations = 0, spans = 0, counters = 0;  // told
};

// kInvalidArgument: a configuration or a fault that cannot be, as simulate() says.
Status can_be(const Cluster& cluster);

// kInvalidArgument: a configuration or a fault that cannot be. Events go to `sink`, numbered in
// `registry`, in the order of Batch::received. Blocks until all steps are done.
Result<Outcome> simulate(const Cluster& cluster, trace::Registry& registry, trace::Sink& sink);

// "slow_compute:rank=17,factor=1.2,from=20": the class in lower case, then fields of Fault.
Result<Fault> parse_fault(std::string_view text);
// "slow_compute"
std::string fault_name(trace::Class cls);
// One line for each class: its name, and what its fields mean.
std::string fault_help();

}  // namespace convoy::sim
