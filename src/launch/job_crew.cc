// The running job under a supervisor: how it is led, and what it is ordered to do.
#include "src/launch/job.h"
#include <convoy/base/socket.h>

#include <csignal>
#include <random>

namespace convoy::launch {

Status Job::lead_crew() {
  const LaunchOptions& o = plan_.options;
  if (!o.recover || o.agent_program.empty()) return ok_status();
  const uint16_t port = o.control_port > 0 ? o.control_port : neighbour_port(plan_.port, 2);
  if (o.nodes > 1 && o.node_rank == 0 && o.etcd.empty() && !can_lead_others(port))
    return ok_status();
  if (o.nodes > 1) first_worker_ = uint64_t{std::random_device{}() & 0xfffffU} << 12U;
  std::vector<std::string> environment = plan_.inherited;
  environment.emplace_back("GRPC_VERBOSITY=NONE");  // unless the caller has set it
  CONVOY_ASSIGN_OR_RETURN(
      crew_,
      Crew::create({.program = o.agent_program,
                    .environment = std::move(environment),
                    .job = plan_.job_id,
                    .has_common_id = plan_.has_common_id,
                    .run_dir = plan_.run_dir,
                    .mesh = o.mesh,
                    .address = o.node_rank == 0 ? o.master_addr : "",
                    .ranks = o.ranks,
                    .spares = o.spares,
                    .min_dp = o.min_dp,
                    .nodes = o.nodes,
                    .node = o.node_rank,
                    .generation = plan_.generation,
                    .launcher = first_worker_,
                    .port = port,
                    .leader = o.master_addr,
                    .webhook = o.webhook,
                    .metrics = o.metrics,
                    .etcd = o.etcd,
                    .protection = o.protection,
                    .tiers = [this] { return agent_line_.tiers.steps(); }},
                   {.spawn = [this](int rank) { respawn(rank); },
                    .kill = [this](uint64_t worker) { kill_worker(worker); },
                    .place = [this](uint64_t worker, int rank) { place_worker(worker, rank); },
                    .renumber = [this] { forget_ranks(); },
                    .end = [this](int code, int cause,
                                  const std::string& why) { end_job(code, cause, why); }},
                   *loop_, terminal_));
  return ok_status();
}

bool Job::can_lead_others(uint16_t port) {
  const LaunchOptions& o = plan_.options;
  if (!listen_tcp(port).ok()) {
    terminal_.say("convoy: no fault will be survived: port " + std::to_string(port) +
                  ", where other machines would connect to the job's supervisor, is in use here; "
                  "--control-port, the same on every machine, chooses another one.");
    return false;
  }
  const bool is_loopback = o.master_addr.starts_with("127.") || o.master_addr == "localhost";
  if (o.protection.empty() && !is_loopback) {
    terminal_.say("convoy: whoever reaches port " + std::to_string(port) +
                  " of this machine can end the job; --token-file and --tls-… keep others out.");
  }
  return true;
}

void Job::respawn(int rank) {
  if (ending_) return;
  const Status started = start_rank(rank, true);
  if (started.ok()) return;
  terminal_.say("convoy: no process can be started: " + started.message());
  if (rank != kNoRank) end_job(kExitInternal, rank, "no process can be started in its place");
}

void Job::kill_worker(uint64_t worker) {
  for (const auto& rank : ranks_) {
    if (rank->worker != worker || rank->exit) continue;
    rank->is_replaced = true;
    ::kill(-rank->child.pid, SIGKILL);
  }
}

// The ranks of a job with another mesh are told next.
void Job::forget_ranks() {
  for (const auto& rank : ranks_) rank->rank = kNoRank;
}

// A rank that another machine has now is none of ours any more.
void Job::place_worker(uint64_t worker, int rank) {
  for (const auto& r : ranks_) {
    if (r->worker == worker) {
      r->rank = rank;
    } else if (r->rank == rank && worker >> 32U != static_cast<uint64_t>(plan_.options.node_rank)) {
      r->rank = kNoRank;
    }
  }
}

}  // namespace convoy::launch
