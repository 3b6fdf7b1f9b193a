// The launch contract as a table: what docs and `convoy env` print, what counts as a known
// CONVOY_* variable, and how the values in force are shown.
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/launch/environment.h>

#include <algorithm>
#include <array>

namespace convoy::launch {
namespace {

constexpr std::array kVariables{
    Variable{"RANK", "this process among all of the job", "0", "0 … WORLD_SIZE - 1"},
    Variable{"WORLD_SIZE", "number of processes in the job", "1", "1 … 1048576"},
    Variable{"LOCAL_RANK", "this process among those of its machine", "RANK",
             "0 … LOCAL_WORLD_SIZE - 1"},
    Variable{"LOCAL_WORLD_SIZE", "number of processes on this machine", "WORLD_SIZE",
             "1 … WORLD_SIZE"},
    Variable{"MASTER_ADDR", "host of rank 0, where the job's store listens",
             "127.0.0.1 on one machine; srun: the step's first host", "host name or address"},
    Variable{"MASTER_PORT", "port of the job's store",
             "convoy run: a free port; mpirun, srun: derived from the job's id", "1 … 65535"},
    Variable{"CONVOY_MESH", "how ranks are arranged for parallelism", "dp=WORLD_SIZE",
             "tp=2,pp=2,dp=2: sizes that multiply to WORLD_SIZE"},
    Variable{"CONVOY_RUN_DIR", "folder for the job's logs, metrics and checkpoints",
             "the program's own choice", "a folder that every rank can write"},
    Variable{"CONVOY_JOB_ID", "names the job in logs and messages", "the launcher's job id",
             "any text"},
    Variable{"CONVOY_GENERATION", "counts the memberships a job has had",
             "0; under torchrun its restarts", "0, 1, 2, …"},
    Variable{"CONVOY_TIMEOUT", "longest wait for other ranks: joining, and every collective",
             "300s", "a time such as 90, 250ms, 5m"},
    Variable{"CONVOY_INTERFACE", "network interface to other machines",
             "the one that reaches MASTER_ADDR", "an interface's name, e.g. eth0"},
    Variable{"CONVOY_ADDRESS", "address that other machines connect to", "that of CONVOY_INTERFACE",
             "an address of this machine"},
    Variable{"CONVOY_HOST_ID", "names the machine: ranks with equal ids share memory", "found out",
             "any text; for tests that play several machines"},
    Variable{"CONVOY_AGENT", "this machine's agent, which keeps checkpoints",
             "convoy run starts one; else the first save does",
             "an abstract socket's name; none: saves are refused"},
    Variable{"CONVOY_CONTROL",
             "where this worker hears that the job goes on without a rank that has failed",
             "convoy run sets it", "SOCKET#NUMBER"},
    Variable{"CONVOY_STANDBY", "this worker gets its rank later: a spare, or in a dead one's place",
             "convoy run sets it", "0, 1"},
    Variable{"CONVOY_BIN", "the program `convoy`, for a worker that starts an agent",
             "beside the worker or Convoy's library, else in PATH", "a path"},
    Variable{"CONVOY_TRACE", "how much of its work each rank records, for `convoy trace`", "spans",
             "off, collectives, spans, details"},
    Variable{"CONVOY_TRACE_BUDGET",
             "how much of a rank's time recording may cost, else it does less", "0.1%",
             "a percentage, or off"},
    Variable{"CONVOY_LOG", "least level of log lines that are shown", "info",
             "debug, info, warn, error, off"},
    Variable{"CONVOY_FAULT", "fault points to trip, for tests", "none",
             "POINT or POINT@PASSAGE, separated by commas"},
};

// Set for tools of the project and read by no worker.
constexpr std::array<std::string_view, 9> kToolVariables{"CONVOY_VENV",
                                                         "CONVOY_STANDIN_GPUS",
                                                         "CONVOY_STANDIN_GPU_MEMORY",
                                                         "CONVOY_STANDIN_SEED",
                                                         "CONVOY_STANDIN_REPORT",
                                                         "CONVOY_STANDIN_NOTICE_S",
                                                         "CONVOY_STANDIN_DEADLINE_S",
                                                         "CONVOY_STANDIN_NCCL_FAULT",
                                                         "CONVOY_STANDIN_CONTROL"};

}  // namespace

std::span<const Variable> variables() {
  return kVariables;
}

std::vector<std::string> unknown_variables(const char* const* environ) {
  std::vector<std::string> known(kToolVariables.begin(), kToolVariables.end());
  for (const Variable& variable : kVariables) known.emplace_back(variable.name);
  std::vector<std::string> sentences;
  for (; environ != nullptr && *environ != nullptr; ++environ) {
    const std::string_view entry = *environ;
    const std::string name(entry.substr(0, entry.find('=')));
    if (!name.starts_with("CONVOY_") ||
        std::find(known.begin(), known.end(), name) != known.end()) {
      continue;
    }
    const std::string near = nearest_name(name, known);
    sentences.push_back(name + " is set, but Convoy knows no such variable" +
                        (near.empty() ? "" : "; did you mean " + near + "?") +
                        " `convoy env` lists them.");
  }
  return sentences;
}

std::string describe(const Environment& e) {
  const std::array<std::string, kVariables.size()> values{
      std::to_string(e.rank),
      std::to_string(e.world_size),
      std::to_string(e.local_rank),
      std::to_string(e.local_world_size),
      e.master_addr,
      std::to_string(e.master_port),
      e.mesh,
      e.run_dir,
      e.job_id,
      std::to_string(e.generation),
      format_duration(e.timeout),
      e.interface,
      e.address,
      e.host_id,
      e.agent,
      e.control,
      e.standby ? "1" : "0",
      e.program,
      e.trace,
      e.trace_budget,
      e.log_level,
      e.fault,
  };
  std::string text = "started by " + std::string(launcher_name(e.launcher));
  for (size_t i = 0; i < kVariables.size(); ++i) {
    text += "\n" + std::string(kVariables[i].name) + "=" + values[i];
  }
  return text;
}

}  // namespace convoy::launch
