// From a fault to the next generation: what is seen, decided and done, with its deadlines.
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <cstdio>

namespace convoy::resilience {
namespace {

// From the summons until a member that was there before is ready, beside four of the longest steps:
// it has to come to the end of what it computes.
constexpr Nanos kReadyLimit = std::chrono::seconds(5);
// A process that has to start first; and from "go" to the first step.
constexpr Nanos kStartLimit = std::chrono::seconds(120);

}  // namespace

// --- deadlines ---

void Supervisor::tick() {
  look_at_vitals();
  keep_account();
  if (options_.nodes > 1 && phase_ != Phase::kOver) {
    look_for_lost_nodes();
    if (!is_complete() || is_any_silent()) return;  // what is not heard would look like a hang
  }
  if (phase_ == Phase::kSteady) {
    if (look_at_suspicion()) return;
    if (!is_holding()) look_for_hang();
    look_for_checks();
    look_for_drains();
    look_for_growth();
    return let_go_of_hold();
  }
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
  std::vector<int> late, halted;
  for (Worker* w : members()) {
    if (gathering ? w->is_ready : w->is_running) continue;
    Nanos limit = kStartLimit;
    // Starting takes its time, but nobody starts while it is halted.
    if ((gathering && !w->is_new) || w->vitals.halted) {
      limit = kReadyLimit + 4 * watch_.longest_step();
    }
    if (now - (gathering ? summoned_at_ : gone_at_) <= limit) continue;
    late.push_back(w->rank);
    if (w->vitals.halted) halted.push_back(w->rank);
  }
  if (late.empty()) return;
  // Who is halted may hold a lock that the others wait for.
  if (!halted.empty()) late = halted;
  fault(FaultKind::kHang, late,
        names("rank", late) + (gathering ? " did not leave the old generation"
                                         : " did no step of the new generation"));
}

// --- see, decide, act ---

// A fault while another one is being recovered from belongs to the same incident.
void Supervisor::open_incident(const char* kind, const std::vector<int>& ranks,
                               const std::string& what) {
  const bool is_first = !incident_;
  if (is_first) {
    seen_at_ = clock_->now();
    new_deaths_.clear();
    enter(Account::Part::kRecovering, unix_now() - unseen_s());
    incident_ = IncidentRecord{.id = ++state_.incidents,
                               .job = options_.job,
                               .unix_time = unix_now(),
                               .kind = kind,
                               .what = what,
                               .ranks = ranks,
                               .generation = static_cast<int64_t>(state_.generation),
                               .step = newest_step()};
  } else {
    ++incident_->faults;
  }
  event("seen: " + what);
  if (is_first) notify("incident");
}

void Supervisor::fault(FaultKind kind, const std::vector<int>& ranks, const std::string& what,
                       int node, bool is_overtaken) {
  if (!is_complete()) {
    if (held_.empty()) held_ = what;  // look_at_all() goes into it
    return;
  }
  held_.clear();
  open_incident(name_of(kind), ranks, what);
  if (is_overtaken && !state_.history.empty()) state_.history.back().is_over = true;
  Fault fault{.kind = kind, .step = newest_step(), .at = elapsed_s()};
  fault.is_one_more = phase_ == Phase::kGathering;
  std::set<int> blocks, nodes;
  if (node != kNone) nodes.insert(node);
  for (const int rank : ranks) {
    blocks.insert(layout_.block_of(rank));
    const Worker* w = of_rank(rank);
    if (w != nullptr || options_.nodes > 1) {
      nodes.insert(w != nullptr ? w->node : place_[static_cast<size_t>(rank)]);
    }
  }
  fault.blocks.assign(blocks.begin(), blocks.end());
  const bool is_lost = kind == FaultKind::kNodeLost;
  if (is_lost) fault.nodes.assign(nodes.begin(), nodes.end());
  const std::set<int> homes = is_lost ? std::set<int>{} : nodes;
  Plan plan = decide(job(homes), state_.history, fault);
  if (plan.action == Action::kWait && !state_.quarantined.empty()) {
    state_.quarantined.clear();  // a node that fails now and then is better than none
    plan = decide(job(homes), state_.history, fault);
  }
  rather_reshape(plan, "no whole replica has room on the machines that are left");
  state_.history.push_back({fault, {nodes.begin(), nodes.end()}, /*is_over=*/false});
  for (const int n : nodes) {
    const std::string& name = nodes_[n].name();
    auto& told = incident_->nodes;
    if (std::find(told.begin(), told.end(), name) == told.end()) told.push_back(name);
  }
  carry_out(plan, ranks);
}

Job Supervisor::job(const std::set<int>& homes) const {
  Job job{.blocks = layout_.blocks(), .parts = layout_.parts()};
  job.replicas_min = options_.min_dp;
  job.is_replicated = layout_.replicas() > 1;
  // Whoever has come to the end can't be asked to take a larger share.
  job.shrinking = done_.empty() ? Shrinking::kIfNeeded : Shrinking::kNever;
  job.step = newest_step();
  job.costs = state_.costs;
  const std::vector<int> spares = spares_by_node();
  for (int n = 0; n < options_.nodes; ++n) {
    job.nodes.push_back(node_for_policy(n, homes.contains(n), spares[static_cast<size_t>(n)]));
  }
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    Block& block = job.blocks[static_cast<size_t>(layout_.block_of(rank))];
    const Worker* w = of_rank(rank);
    block.node = w == nullptr ? place_[static_cast<size_t>(rank)] : w->node;
    block.is_alive = block.is_alive && w != nullptr;
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
  const std::set<uint64_t> blamed = blame(ranks);  // before ranks are numbered anew
  std::vector<Move> moves = plan.moves;
  switch (plan.action) {
    case Action::kStop:
      event("decided: stop: " + plan.reason);
      return stop(code_, ranks.empty() ? kNone : ranks.front(), plan.reason);
    case Action::kNothing:
      note(incident_->what + "; nothing is done: " + plan.reason);
      if (phase_ != Phase::kSteady) return;  // the recovery goes on
      incident_.reset();
      --state_.incidents;
      return enter(Account::Part::kTraining, unix_now());
    case Action::kWait:
      event("decided: stop: nobody has room for " + names("rank", ranks));
      return stop(code_, kNone,
                  "no machine that is left has room for them; --spares says how many processes "
                  "more each may run");
    case Action::kRestart:
      event("decided: all processes anew: " + plan.reason);
      take_places(plan.moves);
      quarantine(plan.quarantined);
      return restart_all();
    case Action::kShrink:
      moves = shrink(plan);
      break;
    case Action::kGrow:
      grow(plan.moves);
      break;
    case Action::kReshape:
      for (const uint64_t id : blamed) condemn(workers_.at(id));
      reshape(*other_mesh());
      break;
    default:
      break;
  }
  take_places(moves);
  quarantine(plan.quarantined);
  std::vector<int> lost;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    Worker* w = of_rank(rank);
    const bool is_blamed = w != nullptr && blamed.contains(w->id);
    const bool moves = w != nullptr && w->node != place_[static_cast<size_t>(rank)];
    if (w != nullptr && (is_blamed || moves)) condemn(*w);
    if ((w == nullptr && !starting_.contains(rank)) || is_blamed || moves) lost.push_back(rank);
  }
  const bool is_resized = plan.action == Action::kShrink || plan.action == Action::kGrow ||
                          plan.action == Action::kReshape;
  event("decided: " + std::string(name_of(plan.action)) +
        (is_resized ? " to mesh " + layout_.mesh().to_string() : "") +
        (lost.empty() ? "" : " " + names("rank", lost)) +
        (!plan.moves.empty() && plan.moves.front().is_warm ? " from a spare" : "") +
        ", expected to take " + expected);
  begin_generation(lost, is_resized);
}

// Whoever hangs can't be asked to leave; who is to blame for wrong values is healed in place.
std::set<uint64_t> Supervisor::blame(const std::vector<int>& ranks) {
  std::set<uint64_t> ids;
  if (state_.history.empty() || state_.history.back().fault.kind != FaultKind::kHang) return ids;
  for (const int rank : ranks) {
    if (const Worker* w = of_rank(rank); w != nullptr) {
      ids.insert(w->id);
    } else {
      starting_.erase(rank);  // it has never come
    }
  }
  return ids;
}

void Supervisor::kill(int node, uint64_t worker) {
  proto::ToNode order;
  order.mutable_kill()->set_worker(worker);
  send_(node, order);
}

void Supervisor::condemn(Worker& worker) {
  kill(worker.node, worker.id);
  worker.is_condemned = true;
  worker.rank = kNone;
}

void Supervisor::begin_generation(const std::vector<int>& lost, bool is_resized) {
  ++state_.generation;
  state_.is_recovering = true;
  state_.veterans.clear();
  state_.ranks.clear();
  for (const auto& [id, w] : workers_) {
    if (w.rank != kNone && !w.is_new) state_.veterans.insert(id);
    if (w.rank != kNone && !(layout_.is_full() && has_own_mesh())) state_.ranks[id] = w.rank;
  }
  save();  // before anyone hears of it: the number must never be used again
  if (is_resized) {
    renumbered_ = state_.generation;
    tell_places(/*is_resized=*/true);
  }
  phase_ = Phase::kGathering;
  is_held_ = false;
  hold_asked_at_.reset();
  await_all();
  summoned_at_ = clock_->now();
  incident_->next_generation = static_cast<int64_t>(state_.generation);
  store_port_ = 0;
  for (auto& [id, w] : workers_) {
    w.is_ready = w.is_running = false;
    w.is_new = w.is_new && w.rank != kNone;  // and has not trained yet
  }
  for (const int rank : lost) give_rank(rank, place_[static_cast<size_t>(rank)]);
  const std::vector<Worker*> all = members();
  all_new_ = std::all_of(all.begin(), all.end(), [](const Worker* w) { return w->is_new; });
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
  done_.erase(rank);
  for (auto& [id, w] : workers_) {
    if (w.node != node || w.rank != kNone || !w.has_joined || w.is_condemned) continue;
    w.rank = rank;
    w.is_new = true;
    ++incident_->spares_used;
    ++spares_used_[node];
    event("a spare (pid " + std::to_string(w.pid) + place_of(node) + ") takes rank " +
          std::to_string(rank));
    proto::ToNode order;
    order.mutable_places()->set_generation(state_.generation);
    proto::Worker& place = *order.mutable_places()->add_workers();
    place.set_worker(w.id);
    place.set_rank(rank);
    return send_(node, order);
  }
  ++incident_->processes_started;
  starting_[rank] = node;
  event("a process is started for rank " + std::to_string(rank) + place_of(node));
  proto::ToNode order;
  order.mutable_spawn()->set_rank(rank);
  order.mutable_spawn()->set_generation(state_.generation);
  send_(node, order);
}

void Supervisor::restart_all() {
  std::vector<int> all;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (!starting_.contains(rank)) all.push_back(rank);
    if (Worker* w = of_rank(rank); w != nullptr) condemn(*w);
  }
  begin_generation(all, /*is_resized=*/false);
}

void Supervisor::summon(const Worker& worker) {
  proto::ToNode order;
  proto::Tell& tell = *order.mutable_tell();
  tell.set_worker(worker.id);
  proto::Summons& s = *tell.mutable_what()->mutable_summons();
  s.set_generation(state_.generation);
  s.set_rank(static_cast<uint32_t>(worker.rank));
  s.set_world_size(static_cast<uint32_t>(layout_.ranks()));
  const auto here = std::count(place_.begin(), place_.end(), worker.node);
  const auto before = std::count(place_.begin(), place_.begin() + worker.rank, worker.node);
  s.set_local_rank(static_cast<uint32_t>(before));
  s.set_local_world_size(static_cast<uint32_t>(here));
  s.set_mesh(has_own_mesh() ? options_.mesh : layout_.mesh().to_string());
  s.set_serves_store(worker.rank == server_);
  s.set_reason(incident_ ? incident_->what : "");
  send_(worker.node, order);
}

void Supervisor::go() {
  phase_ = Phase::kStarting;
  await_all();
  gone_at_ = clock_->now();
  incident_->ready = since(seen_at_);
  event("all " + std::to_string(layout_.ranks()) + " ranks have left generation " +
        std::to_string(incident_->generation) + " and are ready");
  tell_places(/*is_resized=*/false);
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
  steady_at_ = clock_->now();
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
  state_.again_until = std::max(state_.again_until, r.step);
  const bool is_behind = r.resumed + 1 < state_.again_until;
  enter(is_behind ? Account::Part::kAgain : Account::Part::kTraining, unix_now());
  for (auto& [id, w] : workers_) {
    w.is_new = false;
    if (is_behind) w.vitals.step = std::min(w.vitals.step, r.resumed + 1);  // it told before
  }
  say(headline(r) + ". `convoy why` tells more.");
  notify("survived");
  close_incident();
  save();
  refill_spares();
}

void Supervisor::close_incident() {
  state_.tally.add(*incident_);
  const Status written = append_incident(options_.run_dir, *incident_);
  if (!written.ok()) {
    CONVOY_LOG(Warn) << written.message();
  }
  incident_.reset();
}

void Supervisor::stop(int code, int cause, const std::string& why) {
  phase_ = Phase::kOver;
  IncidentRecord& r = *incident_;
  r.reason = why;
  r.action = name_of(Action::kStop);
  event("the job is ended: " + why);
  proto::ToNode order;
  order.mutable_end()->set_code(code);
  order.mutable_end()->set_cause(cause);
  order.mutable_end()->set_text(r.what + "; " + why);
  end_ = order.end();
  notify_end(code, end_->text());
  close_incident();
  save();
  broadcast(order);
}

}  // namespace convoy::resilience
