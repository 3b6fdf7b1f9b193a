#include "src/resilience/supervisor/supervisor.h"

#include "src/resilience/protocol/protocol.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <sys/wait.h>

namespace convoy::resilience {
namespace {

// From the summons until a member that was there before is ready, beside four of the longest steps:
// it has to come to the end of what it computes.
constexpr Nanos kReadyLimit = std::chrono::seconds(5);
// A process that has to start first; and from "go" to the first step.
constexpr Nanos kStartLimit = std::chrono::seconds(120);
constexpr int kSpareDeathsMax = 3;  // then none is started any more

double to_seconds(Nanos time) {
  return std::chrono::duration<double>(time).count();
}

// Exit codes that say that the program was given something that can't work (sysexits.h: usage,
// data, input, configuration): another try would end the same way.
bool is_hopeless(int wait_status) {
  if (!WIFEXITED(wait_status)) return false;
  const int code = WEXITSTATUS(wait_status);
  return code == 64 || code == 65 || code == 66 || code == 78;
}

std::string how(int wait_status) {
  if (WIFEXITED(wait_status)) return "exit code " + std::to_string(WEXITSTATUS(wait_status));
  const char* name = ::sigabbrev_np(WTERMSIG(wait_status));
  return name == nullptr ? "signal " + std::to_string(WTERMSIG(wait_status))
                         : std::string("SIG") + name;
}

int code_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

FaultKind kind_of(const proto::Ended& ended) {
  if (ended.out_of_memory()) return FaultKind::kOutOfMemory;
  const int status = ended.wait_status();
  const bool from_outside =
      WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGTERM);
  return from_outside ? FaultKind::kKilled : FaultKind::kExit;
}

std::string names(const char* what, const std::vector<int>& numbers) {
  std::string text = what;
  if (numbers.size() != 1) text += "s";
  for (size_t i = 0; i < numbers.size(); ++i) {
    text += (i == 0 ? " " : i + 1 == numbers.size() ? " and " : ", ") + std::to_string(numbers[i]);
  }
  return text;
}

}  // namespace

Result<Supervisor> Supervisor::create(Options options, const Clock& clock, Send send) {
  CONVOY_ASSIGN_OR_RETURN(Mesh mesh,
                          Mesh::parse(options.mesh.empty() ? "dp=*" : options.mesh, options.ranks));
  CONVOY_ASSIGN_OR_RETURN(ControlState state, ControlStore(options.run_dir).load());
  return Supervisor(std::move(options), clock, std::move(send), std::move(mesh), std::move(state));
}

Supervisor::Supervisor(Options options, const Clock& clock, Send send, Mesh mesh,
                       ControlState state)
    : options_(std::move(options)),
      clock_(&clock),
      send_(std::move(send)),
      mesh_(std::move(mesh)),
      store_(options_.run_dir),
      state_(std::move(state)) {
  if (state_.began == 0) state_.began = static_cast<double>(::time(nullptr));
  std::map<std::pair<int, int>, int> blocks;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const int replica = mesh_.coordinate(rank, "dp"), part = mesh_.coordinate(rank, "pp");
    const auto [at, is_new] = blocks.try_emplace({replica, part}, static_cast<int>(blocks.size()));
    if (is_new) blocks_.push_back({.replica = replica, .part = part});
    block_of_rank_.push_back(at->second);
  }
}

// --- events ---

void Supervisor::take(int node, const proto::FromNode& message) {
  if (phase_ == Phase::kOver) return;
  switch (message.what_case()) {
    case proto::FromNode::kHello:
      return node_said(node, message.hello());
    case proto::FromNode::kStarted:
      return started(node, message.started().worker());
    case proto::FromNode::kEnded:
      return ended(message.ended());
    case proto::FromNode::kVitals:
      return vitals(message.vitals());
    case proto::FromNode::kSaid:
      if (Worker* worker = find(message.said().worker()); worker != nullptr) {
        worker_said(*worker, message.said().what());
      }
      return;
    case proto::FromNode::kRequest:
      return request(node, message.request());
    default:
      CONVOY_LOG(Debug) << "a message of node " << node << " that says nothing was dropped";
  }
}

void Supervisor::node_said(int node, const proto::NodeHello& hello) {
  if (hello.version() != kProtocolVersion) {
    CONVOY_LOG(Error) << "node " << hello.name() << " speaks version " << hello.version();
    return;
  }
  nodes_[node] = hello;
  state_.generation = std::max(state_.generation, hello.generation());
  for (const proto::Worker& worker : hello.workers()) started(node, worker);
  if (static_cast<int>(nodes_.size()) < options_.nodes) return;
  std::vector<int> lost;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (of_rank(rank) == nullptr) lost.push_back(rank);
  }
  if (!lost.empty()) {
    fault(FaultKind::kKilled, lost, names("rank", lost) + " ended while no supervisor was there");
  } else if (state_.is_recovering) {
    fault(FaultKind::kNetwork, {}, "a supervisor died in the middle of a recovery");
  }
}

void Supervisor::started(int node, const proto::Worker& told) {
  Worker& worker = workers_[told.worker()];
  worker.id = told.worker();
  worker.node = node;
  worker.rank = told.rank();
  starting_.erase(told.rank());
  worker.pid = told.pid();
  worker.has_joined = told.has_joined();
  worker.is_new = !told.has_joined() && phase_ != Phase::kSteady;
}

void Supervisor::ended(const proto::Ended& ended) {
  Worker* found = find(ended.worker());
  if (found == nullptr) return;
  const Worker worker = *found;
  workers_.erase(worker.id);
  if (worker.is_condemned) return;  // who takes its place is known
  if (worker.rank == kNone) return spare_ended(worker);
  if (WIFEXITED(ended.wait_status()) && WEXITSTATUS(ended.wait_status()) == 0) return;
  std::string what = "rank " + std::to_string(worker.rank) + " (pid " + std::to_string(worker.pid) +
                     ") " + (WIFEXITED(ended.wait_status()) ? "ended: " : "was ended: ") +
                     how(ended.wait_status());
  if (!worker.last_words.empty()) what += " (" + worker.last_words + ")";
  const bool begins = WIFEXITED(ended.wait_status()) && newest_step() == 0 && !incident_;
  if (begins || is_hopeless(ended.wait_status())) {
    open_incident(name_of(FaultKind::kExit), {worker.rank}, what);
    return stop(code_of(ended.wait_status()), worker.rank,
                begins ? "no step had been done, so another try would end the same way"
                       : "it was given what can't work, so it is not started again");
  }
  code_ = code_of(ended.wait_status());
  // Several that were there before die of one cause, or of several: that is no recovery that
  // failed.
  const bool is_overtaken = phase_ == Phase::kGathering && !worker.is_new;
  fault(kind_of(ended), {worker.rank}, what, worker.node, is_overtaken);
}

void Supervisor::spare_ended(const Worker& worker) {
  if (++spare_deaths_ > kSpareDeathsMax) {
    if (spare_deaths_ == kSpareDeathsMax + 1) {
      say("spares die: none is started any more.");
    }
    return;
  }
  proto::ToNode order;
  order.mutable_spawn()->set_rank(kNone);
  send_(worker.node, order);
}

void Supervisor::worker_said(Worker& worker, const proto::FromWorker& message) {
  switch (message.what_case()) {
    case proto::FromWorker::kHello:
      worker.has_joined = true;
      if (worker.rank != kNone && worker.is_new && phase_ == Phase::kGathering) summon(worker);
      return;
    case proto::FromWorker::kReady:
      return ready(worker, message.ready());
    case proto::FromWorker::kRunning:
      return running(worker, message.running());
    case proto::FromWorker::kTrouble:
      return trouble(worker, message.trouble());
    default:
      return;
  }
}

void Supervisor::ready(Worker& worker, const proto::Ready& ready) {
  if (phase_ != Phase::kGathering || ready.generation() != state_.generation) return;
  if (worker.rank == kNone) return;
  worker.is_ready = true;
  if (worker.rank == server_) {
    store_port_ = static_cast<uint16_t>(ready.store_port());
    store_host_ = nodes_[worker.node].address();
  }
  if (missing(&Worker::is_ready).empty()) go();
}

void Supervisor::running(Worker& worker, const proto::Running& running) {
  if (phase_ != Phase::kStarting || running.generation() != state_.generation) return;
  worker.is_running = true;
  if (incident_) {
    incident_->resumed = running.resumed();
    incident_->step = std::max(incident_->step, running.resumed());
    if (worker.is_new) {
      char text[200];
      std::snprintf(text, sizeof text,
                    "rank %d has its state from %s (groups %.2f s, state %.2f s, step %.2f s)",
                    worker.rank, running.source().c_str(), running.joined_s(), running.loaded_s(),
                    running.stepped_s());
      event(text);
    }
  }
  if (missing(&Worker::is_running).empty()) survived();
}

void Supervisor::trouble(Worker& worker, const proto::Trouble& trouble) {
  worker.last_words = trouble.text();
  if (trouble.generation() != state_.generation || trouble.is_final()) return;
  const std::string who = "rank " + std::to_string(worker.rank);
  if (trouble.is_corrupt()) {
    std::vector<int> ranks(trouble.ranks().begin(), trouble.ranks().end());
    return fault(FaultKind::kCorruption, ranks, trouble.text());
  }
  const auto code = static_cast<Code>(trouble.code());
  const FaultKind kind = code == Code::kMismatch ? FaultKind::kMismatch : FaultKind::kNetwork;
  fault(kind, {}, who + " reports: " + trouble.text());
}

void Supervisor::vitals(const proto::Vitals& told) {
  std::map<int, RankVitals> ranks;
  for (const proto::Vital& v : told.of()) {
    Worker* worker = find(v.worker());
    if (worker == nullptr) continue;
    worker->vitals = {v.step(), v.waiting(), v.training(), v.halted(), Nanos(v.step_ns())};
    if (worker->rank != kNone) ranks[worker->rank] = worker->vitals;
  }
  if (phase_ == Phase::kSteady) watch_.take(clock_->now(), ranks);
}

// --- deadlines ---

void Supervisor::tick() {
  if (phase_ == Phase::kSteady) return look_for_hang();
  if (phase_ != Phase::kOver) look_for_late();
}

void Supervisor::look_for_hang() {
  const auto hang = watch_.look(clock_->now());
  if (!hang) return;
  char text[200];
  std::snprintf(text, sizeof text, "no rank has done a step for %.1f s (limit %.1f s); ",
                to_seconds(hang->silent), to_seconds(hang->limit));
  std::string what = text;
  if (hang->culprits.empty()) {
    what += "all wait for each other";
  } else {
    const Worker* first = of_rank(hang->culprits.front());
    what += names("rank", hang->culprits) +
            (first != nullptr && first->vitals.halted ? " is halted" : " holds up the others");
  }
  fault(FaultKind::kHang, hang->culprits, what);
}

// Members of the coming generation that don't come: they hang too.
void Supervisor::look_for_late() {
  const TimePoint now = clock_->now();
  const bool gathering = phase_ == Phase::kGathering;
  std::vector<int> late;
  for (Worker* w : members()) {
    if (gathering ? w->is_ready : w->is_running) continue;
    Nanos limit = kStartLimit;
    if (gathering && !w->is_new) limit = kReadyLimit + 4 * watch_.longest_step();
    if (now - (gathering ? summoned_at_ : gone_at_) > limit) late.push_back(w->rank);
  }
  if (late.empty()) return;
  fault(FaultKind::kHang, late,
        names("rank", late) + (gathering ? " did not leave the old generation"
                                         : " did no step of the new generation"));
}

// --- see, decide, act ---

// A fault while another one is being recovered from belongs to the same incident.
void Supervisor::open_incident(const char* kind, const std::vector<int>& ranks,
                               const std::string& what) {
  if (!incident_) {
    seen_at_ = clock_->now();
    incident_ = IncidentRecord{.id = ++state_.incidents,
                               .job = options_.job,
                               .unix_time = static_cast<double>(::time(nullptr)),
                               .kind = kind,
                               .what = what,
                               .ranks = ranks,
                               .generation = static_cast<int64_t>(state_.generation),
                               .step = newest_step()};
  } else {
    ++incident_->faults;
  }
  event("seen: " + what);
}

void Supervisor::fault(FaultKind kind, const std::vector<int>& ranks, const std::string& what,
                       int node, bool is_overtaken) {
  open_incident(name_of(kind), ranks, what);
  if (is_overtaken && !state_.history.empty()) state_.history.back().is_over = true;
  Fault fault{.kind = kind, .step = newest_step(), .at = elapsed_s()};
  std::set<int> blocks, nodes;
  if (node != kNone) nodes.insert(node);
  for (const int rank : ranks) {
    blocks.insert(block_of(rank));
    if (const Worker* w = of_rank(rank); w != nullptr) nodes.insert(w->node);
  }
  fault.blocks.assign(blocks.begin(), blocks.end());
  const Plan plan = decide(job(), state_.history, fault);
  state_.history.push_back({fault, {nodes.begin(), nodes.end()}, /*is_over=*/false});
  for (const int n : nodes) {
    const std::string& name = nodes_[n].name();
    auto& told = incident_->nodes;
    if (std::find(told.begin(), told.end(), name) == told.end()) told.push_back(name);
  }
  carry_out(plan, ranks);
}

Job Supervisor::job() const {
  Job job{.blocks = blocks_, .parts = mesh_.size("pp"), .replicas_min = 1};
  job.is_replicated = mesh_.size("dp") > 1;
  job.shrinking = Shrinking::kNever;
  job.step = newest_step();
  job.costs = state_.costs;
  const int per_block = options_.ranks / static_cast<int>(blocks_.size());
  for (int n = 0; n < options_.nodes; ++n) {
    const auto at = nodes_.find(n);
    Node node{.name = at == nodes_.end() ? std::to_string(n) : at->second.name()};
    // Of a block that spans ranks mostly one is lost, so each spare counts.
    node.slots = options_.ranks / options_.nodes / per_block + options_.spares;
    int spares = 0;
    for (const auto& [id, w] : workers_) {
      if (w.node == n && w.rank == kNone && w.has_joined) ++spares;
    }
    node.warm = spares;
    job.nodes.push_back(std::move(node));
  }
  const int ranks_per_node = options_.ranks / options_.nodes;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    Block& block = job.blocks[static_cast<size_t>(block_of(rank))];
    const auto w = std::find_if(workers_.begin(), workers_.end(), [&](const auto& entry) {
      return entry.second.rank == rank && !entry.second.is_condemned;
    });
    block.node = w == workers_.end() ? rank / ranks_per_node : w->second.node;
    block.is_alive = block.is_alive && w != workers_.end();
  }
  // Workers find out themselves where state is; what it will cost is known only roughly.
  for (size_t b = 0; b < job.blocks.size(); ++b) {
    job.copies.push_back({static_cast<int>(b), kNone, job.step, job.costs.replica_load});
  }
  return job;
}

void Supervisor::carry_out(const Plan& plan, const std::vector<int>& ranks) {
  incident_->action = name_of(plan.action);
  incident_->reason = plan.reason;
  incident_->decided = since(seen_at_);
  char expected[64];
  std::snprintf(expected, sizeof expected, "%.2f s", plan.down);
  switch (plan.action) {
    case Action::kStop:
      event("decided: stop: " + plan.reason);
      return stop(code_, ranks.empty() ? kNone : ranks.front(), plan.reason);
    case Action::kNothing:
      event("decided: nothing: " + plan.reason);
      return;
    case Action::kRestart:
      event("decided: all processes anew: " + plan.reason);
      return restart_all();
    default:
      break;
  }
  std::vector<int> lost;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    Worker* w = of_rank(rank);
    // Whoever hangs can't be asked to leave; who is to blame for wrong values is healed in place.
    const bool is_blamed = state_.history.back().fault.kind == FaultKind::kHang &&
                           std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
    if (w != nullptr && is_blamed) condemn(*w);
    if ((w == nullptr && !starting_.contains(rank)) || is_blamed) lost.push_back(rank);
  }
  event("decided: " + std::string(name_of(plan.action)) +
        (lost.empty() ? "" : " " + names("rank", lost)) +
        (!plan.moves.empty() && plan.moves.front().is_warm ? " from a spare" : "") +
        ", expected to take " + expected);
  begin_generation(lost);
}

void Supervisor::condemn(Worker& worker) {
  proto::ToNode order;
  order.mutable_kill()->set_worker(worker.id);
  send_(worker.node, order);
  worker.is_condemned = true;
  worker.rank = kNone;
}

void Supervisor::begin_generation(const std::vector<int>& lost) {
  ++state_.generation;
  state_.is_recovering = true;
  save();  // before anyone hears of it: the number must never be used again
  phase_ = Phase::kGathering;
  summoned_at_ = clock_->now();
  incident_->next_generation = static_cast<int64_t>(state_.generation);
  store_port_ = 0;
  for (auto& [id, w] : workers_) {
    w.is_ready = w.is_running = false;
    w.is_new = w.is_new && w.rank != kNone;  // and has not trained yet
  }
  const int ranks_per_node = options_.ranks / options_.nodes;
  for (const int rank : lost) give_rank(rank, rank / ranks_per_node);
  const std::vector<Worker*> all = members();
  all_new_ = std::all_of(all.begin(), all.end(), [](const Worker* w) { return w->is_new; }) &&
             (!all.empty() || !lost.empty());
  server_ = 0;
  for (const Worker* w : all) {
    if (!w->is_new) {
      server_ = w->rank;  // members() are in the order of ranks
      break;
    }
  }
  for (const Worker* w : all) {
    if (w->has_joined) summon(*w);
  }
  int kept = 0;
  for (const Worker* w : all) kept += w->is_new ? 0 : 1;
  incident_->processes_kept = kept;
}

// A spare that waits there, or a process that is to be started.
void Supervisor::give_rank(int rank, int node) {
  for (auto& [id, w] : workers_) {
    if (w.node != node || w.rank != kNone || !w.has_joined || w.is_condemned) continue;
    w.rank = rank;
    w.is_new = true;
    ++incident_->spares_used;
    event("a spare (pid " + std::to_string(w.pid) + ") takes rank " + std::to_string(rank));
    proto::ToNode order;
    order.mutable_places()->set_generation(state_.generation);
    proto::Worker& place = *order.mutable_places()->add_workers();
    place.set_worker(w.id);
    place.set_rank(rank);
    return send_(node, order);
  }
  ++incident_->processes_started;
  starting_.insert(rank);
  event("a process is started for rank " + std::to_string(rank));
  proto::ToNode order;
  order.mutable_spawn()->set_rank(rank);
  order.mutable_spawn()->set_generation(state_.generation);
  send_(node, order);
}

void Supervisor::restart_all() {
  std::vector<int> all;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (!starting_.contains(rank)) all.push_back(rank);
    if (Worker* w = of_rank(rank); w != nullptr) condemn(*w);
  }
  begin_generation(all);
}

void Supervisor::summon(const Worker& worker) {
  proto::ToNode order;
  proto::Tell& tell = *order.mutable_tell();
  tell.set_worker(worker.id);
  proto::Summons& s = *tell.mutable_what()->mutable_summons();
  const int ranks_per_node = options_.ranks / options_.nodes;
  s.set_generation(state_.generation);
  s.set_rank(static_cast<uint32_t>(worker.rank));
  s.set_world_size(static_cast<uint32_t>(options_.ranks));
  s.set_local_rank(static_cast<uint32_t>(worker.rank % ranks_per_node));
  s.set_local_world_size(static_cast<uint32_t>(ranks_per_node));
  s.set_mesh(options_.mesh);
  s.set_serves_store(worker.rank == server_);
  s.set_reason(incident_ ? incident_->what : "");
  send_(worker.node, order);
}

void Supervisor::go() {
  phase_ = Phase::kStarting;
  gone_at_ = clock_->now();
  incident_->ready = since(seen_at_);
  event("all " + std::to_string(options_.ranks) + " ranks have left generation " +
        std::to_string(incident_->generation) + " and are ready");
  proto::Go go;
  go.set_generation(state_.generation);
  go.set_host(store_host_);
  go.set_port(store_port_);
  go.set_has_survivors(!all_new_);
  for (const Worker* w : members()) {
    proto::ToNode order;
    order.mutable_tell()->set_worker(w->id);
    *order.mutable_tell()->mutable_what()->mutable_go() = go;
    send_(w->node, order);
  }
}

void Supervisor::survived() {
  phase_ = Phase::kSteady;
  watch_.begin();
  IncidentRecord& r = *incident_;
  r.survived = true;
  r.first_step = since(seen_at_);
  event("step " + std::to_string(r.resumed + 1) + " is done on all ranks");
  // Half old, half new: one odd recovery does not change what the next one is expected to cost.
  const auto learn = [](Seconds& cost, Seconds now) { cost = (cost + now) / 2; };
  if (r.faults == 1 && r.processes_started > 0) {
    learn(state_.costs.respawn, r.ready - r.decided);
  } else if (r.faults == 1 && r.spares_used > 0) {
    learn(state_.costs.promote, r.ready - r.decided);
  }
  if (r.faults == 1) learn(state_.costs.reconfigure, r.first_step - r.ready);
  if (watch_.median_step() > Nanos(0)) state_.costs.step = to_seconds(watch_.median_step());
  for (auto i = state_.history.rbegin(); i != state_.history.rend() && !i->is_over; ++i) {
    i->is_over = true;
  }
  state_.is_recovering = false;
  state_.lost_s += r.first_step;
  const Status written = append_incident(options_.run_dir, r);
  if (!written.ok()) {
    CONVOY_LOG(Warn) << written.message();
  }
  say(headline(r) + ". `convoy why` tells more.");
  const int spares_used = r.spares_used;
  incident_.reset();
  for (auto& [id, w] : workers_) w.is_new = false;
  save();
  for (int i = 0; i < spares_used; ++i) {
    proto::ToNode order;
    order.mutable_spawn()->set_rank(kNone);
    send_(0, order);
  }
}

void Supervisor::stop(int code, int cause, const std::string& why) {
  phase_ = Phase::kOver;
  IncidentRecord& r = *incident_;
  r.reason = why;
  r.action = name_of(Action::kStop);
  event("the job is ended: " + why);
  const Status written = append_incident(options_.run_dir, r);
  if (!written.ok()) {
    CONVOY_LOG(Warn) << written.message();
  }
  save();
  proto::ToNode order;
  order.mutable_end()->set_code(code);
  order.mutable_end()->set_cause(cause);
  order.mutable_end()->set_text(r.what + "; " + why);
  for (const auto& [node, hello] : nodes_) send_(node, order);
}

// --- books ---

Supervisor::Worker* Supervisor::find(uint64_t id) {
  const auto at = workers_.find(id);
  return at == workers_.end() ? nullptr : &at->second;
}

Supervisor::Worker* Supervisor::of_rank(int rank) {
  for (auto& [id, w] : workers_) {
    if (w.rank == rank && !w.is_condemned) return &w;
  }
  return nullptr;
}

std::vector<Supervisor::Worker*> Supervisor::members() {
  std::vector<Worker*> all;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (Worker* w = of_rank(rank); w != nullptr) all.push_back(w);
  }
  return all;
}

// Ranks without the flag, those too whose process is not there yet.
std::vector<int> Supervisor::missing(bool Worker::*flag) {
  std::vector<int> ranks;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const Worker* w = of_rank(rank);
    if (w == nullptr || !(w->*flag)) ranks.push_back(rank);
  }
  return ranks;
}

int64_t Supervisor::newest_step() const {
  int64_t step = 0;
  for (const auto& [id, w] : workers_) step = std::max(step, w.vitals.step);
  return step;
}

double Supervisor::since(TimePoint begin) const {
  return to_seconds(clock_->now() - begin);
}

// Of the job, whichever supervisors it has had.
double Supervisor::elapsed_s() const {
  return static_cast<double>(::time(nullptr)) - state_.began;
}

void Supervisor::event(const std::string& text) {
  if (incident_) incident_->events.push_back({since(seen_at_), text});
}

void Supervisor::say(const std::string& text) {
  proto::ToNode order;
  order.mutable_say()->set_text(text);
  for (const auto& [node, hello] : nodes_) send_(node, order);
}

void Supervisor::save() {
  const Status saved = store_.save(state_);
  if (!saved.ok()) {
    CONVOY_LOG(Error) << "the control state can't be kept: " << saved.message();
  }
}

}  // namespace convoy::resilience
