// Translates what torchrun, Open MPI, PMI and Slurm say into one Environment. Decides who speaks
// (the first family whose variables are there) and what is derived when MASTER_ADDR or MASTER_PORT
// is not set. The table of variables is in variables.cc.
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/launch/environment.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/segment.h>

#include <array>
#include <cstdlib>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr int kRanksMax = 1 << 20;
// Derived ports lie below the range that Linux hands to outgoing connections.
constexpr uint16_t kDerivedPortFirst = 20000;
constexpr uint16_t kDerivedPorts = 12000;
constexpr std::string_view kLoopback = "127.0.0.1";

// Where one launcher keeps the four numbers, and the job's id.
struct Family {
  Launcher launcher;
  std::string_view rank, size, local_rank, local_size;
  std::array<std::string_view, 3> job_ids;  // the first that is set
};
constexpr Family kTorchrun{Launcher::kTorchrun, "RANK",
                           "WORLD_SIZE",        "LOCAL_RANK",
                           "LOCAL_WORLD_SIZE",  {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", ""}};
constexpr Family kOpenMpi{
    Launcher::kOpenMpi,           "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",       "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE", {"OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE", "SLURM_JOB_ID"}};
constexpr Family kPmi{Launcher::kPmi,    "PMI_RANK",
                      "PMI_SIZE",        "MPI_LOCALRANKID",
                      "MPI_LOCALNRANKS", {"PMI_JOBID", "PMIX_NAMESPACE", "SLURM_JOB_ID"}};
// PMIx tells the rank only; the size must come from the user.
constexpr Family kPmix{Launcher::kPmi, "PMIX_RANK",        "WORLD_SIZE",
                       "LOCAL_RANK",   "LOCAL_WORLD_SIZE", {"PMIX_NAMESPACE", "SLURM_JOB_ID", ""}};
constexpr Family kSlurm{Launcher::kSlurm,
                        "SLURM_PROCID",
                        "SLURM_NTASKS",
                        "SLURM_LOCALID",
                        "",
                        {"SLURM_JOB_ID", "SLURM_JOBID", ""}};

Status bad(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

std::string text_of(const Getenv& getenv, std::string_view name, std::string_view otherwise = "") {
  const auto value = name.empty() ? std::nullopt : getenv(name);
  return value && !value->empty() ? *value : std::string(otherwise);
}

bool has(const Getenv& getenv, std::string_view name) {
  return !text_of(getenv, name).empty();
}

Status read_int(const Getenv& getenv, std::string_view name, int64_t least, int64_t most,
                int* out) {
  const std::string text = text_of(getenv, name);
  if (text.empty()) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(const int64_t number, parse_integer(name, text, least, most));
  *out = static_cast<int>(number);
  return ok_status();
}

// A script that sbatch runs has SLURM_PROCID too, but only srun's tasks belong to a numbered step.
bool is_slurm_task(const Getenv& getenv) {
  return has(getenv, "SLURM_PROCID") &&
         (has(getenv, "SLURM_STEP_ID") || has(getenv, "SLURM_STEP_NODELIST"));
}

const Family* choose_family(const Getenv& getenv) {
  if (has(getenv, "RANK")) return &kTorchrun;
  if (has(getenv, kOpenMpi.rank)) return &kOpenMpi;
  if (has(getenv, kPmi.rank)) return &kPmi;
  if (is_slurm_task(getenv)) return &kSlurm;
  if (has(getenv, kPmix.rank)) return &kPmix;
  return nullptr;
}

// "4(x2),3" -> the number of tasks on the first node, or of all nodes when they are equal. Used
// only when it is one entry: else the local size of this node is unknown to the worker.
int slurm_local_size(const Getenv& getenv, int world_size) {
  std::string tasks = text_of(getenv, "SLURM_STEP_TASKS_PER_NODE");
  if (tasks.empty()) tasks = text_of(getenv, "SLURM_TASKS_PER_NODE");
  const std::vector<std::string> entries = split(tasks, ',');
  size_t node = 0;
  int wanted = 0;
  if (!read_int(getenv, "SLURM_NODEID", 0, kRanksMax, &wanted).ok()) return world_size;
  for (const std::string& entry : entries) {
    const size_t times_at = entry.find("(x");
    const auto count = parse_integer("tasks", entry.substr(0, times_at), 1, kRanksMax);
    if (!count.ok()) return world_size;
    size_t times = 1;
    if (times_at != std::string::npos)
      times = std::strtoul(entry.c_str() + times_at + 2, nullptr, 10);
    if (static_cast<size_t>(wanted) < node + times) return static_cast<int>(count.value());
    node += times;
  }
  return world_size;
}

Status read_place(const Getenv& getenv, const Family& family, Environment* out) {
  out->launcher = family.launcher;
  if (!has(getenv, family.size)) {
    return bad(std::string(family.rank) + " is set but " + std::string(family.size) +
               " is not: a worker needs both. Set " + std::string(family.size) +
               " to the number of ranks of the job, or start the program with `convoy run -n N`.");
  }
  CONVOY_RETURN_IF_ERROR(read_int(getenv, family.size, 1, kRanksMax, &out->world_size));
  CONVOY_RETURN_IF_ERROR(read_int(getenv, family.rank, 0, kRanksMax, &out->rank));
  if (family.launcher == Launcher::kSlurm) {
    // The step's own number of tasks: SLURM_NTASKS may still be the allocation's.
    CONVOY_RETURN_IF_ERROR(
        read_int(getenv, "SLURM_STEP_NUM_TASKS", 1, kRanksMax, &out->world_size));
  }
  if (out->rank >= out->world_size) {
    return bad(std::string(family.rank) + " is " + std::to_string(out->rank) + " but " +
               std::string(family.size) + " is " + std::to_string(out->world_size) +
               ": ranks count from 0 to one less than the size. Variables of two launchers may be "
               "mixed; unset those that don't belong to this job.");
  }
  const bool slurm = family.launcher == Launcher::kSlurm;
  out->local_rank = out->rank;
  out->local_world_size = slurm ? slurm_local_size(getenv, out->world_size) : out->world_size;
  CONVOY_RETURN_IF_ERROR(read_int(getenv, family.local_rank, 0, kRanksMax, &out->local_rank));
  CONVOY_RETURN_IF_ERROR(
      read_int(getenv, family.local_size, 1, out->world_size, &out->local_world_size));
  if (out->local_rank >= out->local_world_size) {
    return bad(std::string(family.local_rank) + " is " + std::to_string(out->local_rank) +
               " but this machine has " + std::to_string(out->local_world_size) +
               " ranks: local ranks count from 0 to one less than that. Set LOCAL_RANK and "
               "LOCAL_WORLD_SIZE, or unset both.");
  }
  return ok_status();
}

uint16_t port_from(std::string_view job) {
  uint64_t hash = 14695981039346656037ULL;  // FNV-1a: the same on every machine of the job
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return static_cast<uint16_t>(kDerivedPortFirst + hash % kDerivedPorts);
}

Status read_master(const Getenv& getenv, const Family& family, const std::string& job,
                   Environment* out) {
  out->master_addr = text_of(getenv, "MASTER_ADDR");
  // Before Slurm's node names, which need not resolve where one machine is enough.
  if (out->master_addr.empty() && family.launcher != Launcher::kTorchrun &&
      out->local_world_size == out->world_size) {
    out->master_addr = kLoopback;
  }
  if (out->master_addr.empty() && family.launcher == Launcher::kSlurm) {
    out->master_addr =
        first_host(text_of(getenv, "SLURM_STEP_NODELIST", text_of(getenv, "SLURM_JOB_NODELIST")));
  }
  if (out->master_addr.empty() && out->world_size == 1) out->master_addr = kLoopback;
  if (out->master_addr.empty()) {
    return bad("MASTER_ADDR is not set, so rank " + std::to_string(out->rank) + " of " +
               std::to_string(out->world_size) +
               " can't find the others. Set it to the host of rank 0 on every rank (mpirun: "
               "`-x MASTER_ADDR=HOST`), or start the program with `convoy run`, torchrun or srun, "
               "which set it or the variables it is derived from.");
  }
  int port = out->world_size == 1 || job.empty() ? 0 : port_from(job);
  CONVOY_RETURN_IF_ERROR(read_int(getenv, "MASTER_PORT", 1, 65535, &port));
  if (port == 0 && out->world_size > 1) {
    return bad(
        "MASTER_PORT is not set and the launcher gave no job id to derive it from. Set it "
        "to a free port of rank 0's host, the same on every rank, e.g. MASTER_PORT=29500.");
  }
  out->master_port = static_cast<uint16_t>(port);
  out->store_is_served = text_of(getenv, "TORCHELASTIC_USE_AGENT_STORE") == "True";
  return ok_status();
}

Status read_settings(const Getenv& getenv, Environment* out) {
  out->mesh = text_of(getenv, "CONVOY_MESH");
  out->run_dir = text_of(getenv, "CONVOY_RUN_DIR");
  out->interface = text_of(getenv, "CONVOY_INTERFACE");
  out->address = text_of(getenv, "CONVOY_ADDRESS");
  out->host_id = text_of(getenv, "CONVOY_HOST_ID");
  out->agent = text_of(getenv, "CONVOY_AGENT");
  out->control = text_of(getenv, "CONVOY_CONTROL");
  out->standby = text_of(getenv, "CONVOY_STANDBY") == "1";
  out->program = text_of(getenv, "CONVOY_BIN");
  out->fault = text_of(getenv, "CONVOY_FAULT");
  CONVOY_RETURN_IF_ERROR(
      read_int(getenv, "TORCHELASTIC_RESTART_COUNT", 0, INT32_MAX, &out->generation));
  CONVOY_RETURN_IF_ERROR(read_int(getenv, "CONVOY_GENERATION", 0, INT32_MAX, &out->generation));
  if (const std::string text = text_of(getenv, "CONVOY_TIMEOUT"); !text.empty()) {
    CONVOY_ASSIGN_OR_RETURN(out->timeout, parse_duration("CONVOY_TIMEOUT", text));
    if (out->timeout == Nanos(0)) return bad("CONVOY_TIMEOUT is 0, but must be longer than that.");
  }
  out->trace = text_of(getenv, "CONVOY_TRACE", "spans");
  if (!trace::level_of(out->trace)) {
    return bad("CONVOY_TRACE is '" + out->trace +
               "', but must be one of off, collectives, spans, details.");
  }
  out->trace_budget = text_of(getenv, "CONVOY_TRACE_BUDGET", "0.1%");
  if (const auto budget = trace::parse_budget(out->trace_budget); !budget.ok()) {
    return bad(budget.status().message() + ".");
  }
  out->log_level = text_of(getenv, "CONVOY_LOG", "info");
  for (const std::string_view level : {"debug", "info", "warn", "error", "off"}) {
    if (out->log_level == level) return ok_status();
  }
  return bad("CONVOY_LOG is '" + out->log_level +
             "', but must be one of debug, info, warn, error, off.");
}

}  // namespace

std::string_view launcher_name(Launcher launcher) {
  switch (launcher) {
    case Launcher::kNone:
      return "none";
    case Launcher::kConvoy:
      return "convoy run";
    case Launcher::kTorchrun:
      return "torchrun";
    case Launcher::kOpenMpi:
      return "mpirun";
    case Launcher::kPmi:
      return "PMI";
    case Launcher::kSlurm:
      return "srun";
  }
  return "unknown";
}

Getenv process_getenv() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  };
}

Result<Environment> read_environment(const Getenv& getenv) {
  Environment out;
  CONVOY_RETURN_IF_ERROR(read_settings(getenv, &out));
  out.job_id = text_of(getenv, "CONVOY_JOB_ID");
  const Family* family = choose_family(getenv);
  if (family == nullptr) return out;

  CONVOY_RETURN_IF_ERROR(read_place(getenv, *family, &out));
  std::string job;
  for (const std::string_view name : family->job_ids) {
    if (job.empty()) job = text_of(getenv, name);
  }
  if (family->launcher == Launcher::kTorchrun && !out.job_id.empty()) {
    out.launcher = Launcher::kConvoy;
  }
  if (out.job_id.empty()) out.job_id = job;
  // Two steps of one allocation may run side by side.
  const std::string step = text_of(getenv, "SLURM_STEP_ID");
  const bool in_step = family->launcher == Launcher::kSlurm && !step.empty();
  CONVOY_RETURN_IF_ERROR(read_master(getenv, *family, in_step ? job + "." + step : job, &out));
  return out;
}

std::string local_job(const Environment& e) {
  if (e.launcher == Launcher::kNone) return "process " + std::to_string(::getpid());
  // Ids such as torchrun's "none" say nothing; one port serves one job at a time. The first rank
  // tells apart what plays several machines on one.
  const std::string where = e.master_port == 0
                                ? "process " + std::to_string(::getpid())
                                : e.master_addr + ":" + std::to_string(e.master_port);
  return std::string(launcher_name(e.launcher)) + " job " + e.job_id + " at " + where +
         " from rank " + std::to_string(e.rank - e.local_rank);
}

std::string first_host(std::string_view node_list) {
  const size_t bracket = node_list.find('[');
  const size_t comma = node_list.find(',');
  if (bracket == std::string_view::npos || comma < bracket) {
    return std::string(node_list.substr(0, comma));
  }
  // "rack[1-2]node[03-07]": take the first number of every bracket up to the first outer comma.
  std::string host;
  for (size_t i = 0; i < node_list.size() && node_list[i] != ','; ++i) {
    if (node_list[i] != '[') {
      host += node_list[i];
      continue;
    }
    const size_t close = node_list.find(']', i);
    if (close == std::string_view::npos) return "";
    const std::string_view inner = node_list.substr(i + 1, close - i - 1);
    host += inner.substr(0, inner.find_first_of(",-"));
    i = close;
  }
  return host;
}

}  // namespace convoy::launch
