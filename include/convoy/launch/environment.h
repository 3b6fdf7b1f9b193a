#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The launch contract: everything that a worker learns from its environment.
//
// `convoy run` sets all of it. A program that torchrun, mpirun, srun or a PMI launcher started, or
// nobody, finds the same struct: read_environment() translates. Nothing else in Convoy calls
// getenv for a worker's settings, except the log level (base/log) and fault points (base/fault),
// which must work before this is read; they are listed here too.
namespace convoy::launch {

// Who started this process, as far as its variables tell.
enum class Launcher { kNone, kConvoy, kTorchrun, kOpenMpi, kPmi, kSlurm };
std::string_view launcher_name(Launcher launcher);

// One worker's place in the job and its settings. A plain value. The variable that sets a field
// stands beside it; defaults and legal values: variables(), `convoy env`, docs/launch.md.
struct Environment {
  Launcher launcher = Launcher::kNone;

  int rank = 0;                           // RANK: this process, 0 … world_size - 1
  int world_size = 1;                     // WORLD_SIZE: processes in the job
  int local_rank = 0;                     // LOCAL_RANK: this process among those of its machine
  int local_world_size = 1;               // LOCAL_WORLD_SIZE: processes on this machine
  std::string master_addr = "127.0.0.1";  // MASTER_ADDR: host of rank 0, which serves the store
  uint16_t master_port = 0;               // MASTER_PORT: of the store; 0 only when world_size is 1

  // TORCHELASTIC_USE_AGENT_STORE: torchrun's agent serves the store already, so rank 0 must not.
  bool store_is_served = false;

  std::string mesh;     // CONVOY_MESH: e.g. "tp=2,pp=2,dp=2"; "": all dp
  std::string run_dir;  // CONVOY_RUN_DIR: where the job's files go; "": none
  std::string job_id;   // CONVOY_JOB_ID: names the job in logs and messages
  int generation = 0;   // CONVOY_GENERATION: counts the job's memberships (under torchrun:
                        // its restarts, if unset)
  Nanos timeout = std::chrono::seconds(300);  // CONVOY_TIMEOUT: of joining and of every collective
  std::string interface;                      // CONVOY_INTERFACE: network interface; "": automatic
  std::string address;                        // CONVOY_ADDRESS: address to listen on; "": automatic
  std::string host_id;   // CONVOY_HOST_ID: ranks with equal ids share memory; "": found out
  std::string agent;     // CONVOY_AGENT: abstract socket name of this node's agent; "": none
  std::string control;   // CONVOY_CONTROL: where this worker is led from one generation to the next
  bool standby = false;  // CONVOY_STANDBY: has no rank until it is summoned to a generation
  std::string program;   // CONVOY_BIN: the convoy program, to start an agent; "": looked for
  std::string trace = "spans";        // CONVOY_TRACE: off|collectives|spans|details
  std::string trace_budget = "0.1%";  // CONVOY_TRACE_BUDGET: a percentage, or off
  std::string log_level = "info";     // CONVOY_LOG: debug|info|warn|error|off
  std::string fault;                  // CONVOY_FAULT: fault points to arm, for tests
};

// One row of the contract.
struct Variable {
  std::string_view name;
  std::string_view meaning;
  std::string_view default_value;  // in words where it depends on something
  std::string_view legal;
};
// All variables of the contract, torchrun's first.
std::span<const Variable> variables();

// The value of a variable, or nothing when it is unset. An empty value counts as unset.
using Getenv = std::function<std::optional<std::string>(std::string_view name)>;
// Reads this process's environment.
Getenv process_getenv();

// Reads the contract. In this order, the first that is there decides ranks and sizes: RANK and
// WORLD_SIZE (convoy run, torchrun, or set by hand), Open MPI's OMPI_COMM_WORLD_*, PMI's PMI_RANK
// and PMI_SIZE (or PMIX_RANK with WORLD_SIZE), srun's SLURM_PROCID; none: one rank. MASTER_ADDR and
// MASTER_PORT always win over what is derived: the first host of SLURM_STEP_NODELIST, loopback when
// all ranks are on one machine, a port from the job's id.
//
// kInvalidArgument: a value that is no number or not legal, RANK >= WORLD_SIZE, no way to know
// MASTER_ADDR or MASTER_PORT. The text names the variables and says what to set.
Result<Environment> read_environment(const Getenv& getenv = process_getenv());

// A sentence for each CONVOY_* variable in `environ` ("NAME=value" strings, null-terminated) that
// is not in the contract, with the nearest known name. Misspelt settings must not pass silently.
std::vector<std::string> unknown_variables(const char* const* environ);

// What the ranks of this machine have in common, and no other job's: the same text on each of them,
// for as long as the job goes on (through restarts by torchrun, too). For names of things that a
// machine has once a job. A program that nobody launched is a job of its own, named by its pid.
std::string local_job(const Environment& environment);

// The contract with the values in force, one "NAME=value" per line; start-up prints it at debug
// level.
std::string describe(const Environment& environment);

// The first host of a Slurm node list: "node[03-07,9],x1" -> "node03". "" when it has none.
std::string first_host(std::string_view node_list);

}  // namespace convoy::launch
