// Checks and fills in what the user asked for, before anything is started; then hands over to the
// guardian (guard.cc) and the job (job.cc).
#include "src/launch/job.h"
#include "src/launch/process.h"
#include "src/launch/rehearsal.h"
#include <convoy/base/socket.h>
#include <convoy/base/units.h>
#include <convoy/launch/environment.h>
#include <convoy/launch/launcher.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <sched.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr int kRanksMax = 4096;  // on one machine: more is a typing error

Status bad(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

Status check(const LaunchOptions& o) {
  if (o.program.empty())
    return bad("There is no program to run. Example: convoy run -n 2 -- ./train");
  if (o.ranks < 1 || o.ranks > kRanksMax) {
    return bad("-n is " + std::to_string(o.ranks) + ", but a machine runs 1 to " +
               std::to_string(kRanksMax) + " ranks.");
  }
  if (o.nodes < 1 || o.node_rank < 0 || o.node_rank >= o.nodes) {
    return bad("--node-rank is " + std::to_string(o.node_rank) + " and --nnodes " +
               std::to_string(o.nodes) + ": machines count from 0 to one less than --nnodes.");
  }
  if (o.nodes > 1 && o.port == 0) {
    return bad(
        "A job on several machines needs --rdzv HOST:PORT, the same on every machine: the "
        "first machine's address and a free port there.");
  }
  return ok_status();
}

// Rank 0 will listen there, so only its machine can tell whether the port is free.
Result<uint16_t> choose_port(const LaunchOptions& o) {
  if (o.port == 0) return free_port();
  if (o.node_rank != 0 || listen_tcp(o.port).ok()) return o.port;
  return Status(Code::kAlreadyExists,
                "Port " + std::to_string(o.port) +
                    " is in use on this machine (`ss -ltnp` shows by what). Choose another one, or "
                    "leave --port out: a free one is taken.");
}

int cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

int choose_threads(const LaunchOptions& o) {
  if (o.threads > 0) return o.threads;
  const char* set = std::getenv("OMP_NUM_THREADS");
  const int inherited = set == nullptr ? 0 : std::atoi(set);
  return inherited > 0 ? inherited : std::max(1, cores() / o.ranks);
}

// What the ranks will read, and complain of where it is no number.
uint64_t choose_generation(const LaunchOptions& o) {
  const char* inherited = std::getenv("CONVOY_GENERATION");
  std::string text = inherited == nullptr ? "" : inherited;
  for (const auto& [name, value] : o.environment) {
    if (name == "CONVOY_GENERATION") text = value;
  }
  return std::strtoull(text.c_str(), nullptr, 10);
}

std::string new_job_id() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y%m%d-%H%M%S", &local);
  return std::string(text.data()) + "-" + std::to_string(::getpid());
}

Result<std::string> make_run_dir(const LaunchOptions& o, const std::string& job_id) {
  const std::filesystem::path folder =
      o.output.empty() ? std::filesystem::path("runs") / job_id : std::filesystem::path(o.output);
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::absolute(folder, error).lexically_normal();
  std::filesystem::create_directories(whole / "logs", error);
  if (error) {
    return bad("The run folder " + whole.string() + " can't be made: " + error.message() +
               ". Choose another one with --output DIR.");
  }
  if (::access((whole / "logs").c_str(), W_OK | X_OK) != 0) {
    return bad("The run folder " + whole.string() +
               " can't be written. Choose another one with --output DIR.");
  }
  return whole.string();
}

Result<Plan> plan_launch(const LaunchOptions& options) {
  CONVOY_RETURN_IF_ERROR(check(options));
  Plan plan;
  plan.options = options;
  if (options.rehearsal) {
    CONVOY_RETURN_IF_ERROR(complete_rehearsal(options.ranks, &*plan.options.rehearsal));
    CONVOY_ASSIGN_OR_RETURN(plan.preloaded, standin_libraries());
  }
  CONVOY_ASSIGN_OR_RETURN(plan.path, find_program(options.program.front()));
  CONVOY_ASSIGN_OR_RETURN(plan.port, choose_port(options));
  const char* job_id = std::getenv("CONVOY_JOB_ID");
  const bool is_given = job_id != nullptr && *job_id != '\0';
  if (!options.etcd.empty() && !is_given) {
    return Status(Code::kInvalidArgument,
                  "--etcd needs one CONVOY_JOB_ID, the same on all machines and of no other job.");
  }
  plan.job_id = is_given ? job_id : new_job_id();
  plan.has_common_id = is_given || options.nodes == 1;
  plan.threads = choose_threads(options);
  plan.generation = choose_generation(options);
  for (char** entry = environ; *entry != nullptr; ++entry) plan.inherited.emplace_back(*entry);
  CONVOY_ASSIGN_OR_RETURN(plan.run_dir, make_run_dir(options, plan.job_id));
  return plan;
}

void warn_of_unknown(const LaunchOptions& options) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : options.environment) entries.push_back(name + "=" + value);
  std::vector<const char*> own;
  for (const std::string& entry : entries) own.push_back(entry.c_str());
  own.push_back(nullptr);
  for (const char* const* list :
       {static_cast<const char* const*>(environ), static_cast<const char* const*>(own.data())}) {
    for (const std::string& text : unknown_variables(list)) {
      std::fprintf(stderr, "convoy: %s\n", text.c_str());
    }
  }
}

}  // namespace

void add_words(const Protection& protection, std::vector<std::string>* words) {
  const std::pair<const char*, const std::string&> options[] = {
      {"--token-file", protection.token_file},
      {"--tls-certificate", protection.certificate},
      {"--tls-key", protection.key},
      {"--tls-roots", protection.roots}};
  for (const auto& [name, value] : options) {
    if (!value.empty()) words->insert(words->end(), {name, value});
  }
}

Result<int> launch(const LaunchOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(const Plan plan, plan_launch(options));
  warn_of_unknown(options);
  CONVOY_ASSIGN_OR_RETURN(AgentLine agent, make_agent_line(options.drain_timeout));
  return guard(agent, [&](const UniqueFd& lifeline) {
    const Result<int> code = Job(plan, agent).run(lifeline);
    if (code.ok()) return code.value();
    std::fprintf(stderr, "convoy: %s\n", code.status().message().c_str());
    return kExitInternal;
  });
}

int exit_code_of(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return kExitOk;
    case Code::kInvalidArgument:
      return kExitUsage;
    case Code::kAlreadyExists:
    case Code::kUnavailable:
      return kExitUnavailable;
    case Code::kNotFound:
      return kExitNotFound;
    case Code::kFailedPrecondition:
      return kExitCantExecute;
    default:
      return kExitInternal;
  }
}

}  // namespace convoy::launch
