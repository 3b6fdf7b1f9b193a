// What the supervisor hears, and the books it keeps. What it does about a fault: recovery.cc.
#include "src/resilience/supervisor/supervisor.h"

#include "src/resilience/protocol/protocol.h"
#include <convoy/base/log.h>
#include <convoy/base/process.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <sys/wait.h>
#include <utility>

namespace convoy::resilience {
namespace {

constexpr int kSpareDeathsMax = 3;  // then none is started any more

// Exit codes that say that the program was given something that can't work (sysexits.h: usage,
// data, input, configuration): another try would end the same way.
bool is_hopeless(int wait_status) {
  if (!WIFEXITED(wait_status)) return false;
  const int code = WEXITSTATUS(wait_status);
  return code == 64 || code == 65 || code == 66 || code == 78;
}

FaultKind kind_of(const proto::Ended& ended) {
  const int status = ended.wait_status();
  const bool from_outside =
      WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGTERM);
  return from_outside ? FaultKind::kKilled : FaultKind::kExit;
}

// Of steps and nanoseconds that others tell: so that sums and multiples of them are numbers, too.
int64_t sane(int64_t told) {
  constexpr int64_t kMost = int64_t{1} << 53;
  return std::clamp<int64_t>(told, 0, kMost);
}

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Result<Supervisor> Supervisor::create(Options options, const Clock& clock, Send send,
                                      std::unique_ptr<ControlStore> store) {
  CONVOY_ASSIGN_OR_RETURN(Mesh mesh,
                          Mesh::parse(options.mesh.empty() ? "dp=*" : options.mesh, options.ranks));
  if (store == nullptr) store = make_file_store(options.run_dir);
  CONVOY_ASSIGN_OR_RETURN(ControlState state, store->load());
  return Supervisor(std::move(options), clock, std::move(send), mesh, std::move(store),
                    std::move(state));
}

Supervisor::Supervisor(Options options, const Clock& clock, Send send, const Mesh& mesh,
                       std::unique_ptr<ControlStore> store, ControlState state)
    : options_(std::move(options)),
      clock_(&clock),
      send_(std::move(send)),
      own_mesh_(mesh),
      layout_(layout_of(mesh, options_.nodes, ranks_per_node())),
      store_(std::move(store)),
      state_(std::move(state)) {
  created_at_ = clock_->now();
  if (options_.is_contested && state_.home != options_.home) led_before_ = state_.home;
  state_.home = options_.home;
  unix_at_first_ = options_.unix_time > 0 ? options_.unix_time : wall_clock();
  if (state_.began == 0) {
    state_.began = unix_at_first_;
    state_.account = Account(state_.began);
  }
  if (state_.incident && state_.is_recovering) {
    incident_ = state_.incident;
    seen_at_ = created_at_ - std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(
                                 unix_at_first_ - incident_->unix_time));
    event("another supervisor goes on: the one before ended");
  }
  if (const auto mesh = Mesh::parse(state_.mesh, state_.mesh_ranks);
      mesh.ok() && state_.mesh_ranks > 0) {
    layout_ = layout_of(*mesh, options_.nodes, ranks_per_node());
  }
  if (state_.replicas > 0) layout_ = layout_.with_replicas(state_.replicas);
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    place_.push_back(rank * options_.nodes / layout_.ranks());
  }
  if (options_.is_contested) save();  // who leads after this one must know who did
}

// --- events ---

void Supervisor::take(int node, const proto::FromNode& message) {
  if (phase_ == Phase::kOver) {
    if (!message.has_hello() || !end_) return;
    proto::ToNode order;
    *order.mutable_end() = *end_;
    return send_(node, order);
  }
  if (const auto at = presence_.find(node); at != presence_.end() && !message.has_hello()) {
    at->second.beats.heard(clock_->now());
  }
  switch (message.what_case()) {
    case proto::FromNode::kHello:
      return node_said(node, message.hello());
    case proto::FromNode::kStarted:
      return was_started(node, message.started());
    case proto::FromNode::kEnded:
      return ended(message.ended());
    case proto::FromNode::kVitals:
      return vitals(node, message.vitals());
    case proto::FromNode::kSaid:
      if (Worker* worker = find(message.said().worker()); worker != nullptr) {
        worker_said(*worker, message.said().what());
      }
      return;
    case proto::FromNode::kChecked:
      return checked(node, message.checked());
    case proto::FromNode::kRequest:
      return request(node, message.request());
    case proto::FromNode::kLeaving:
      return leaving(node, message.leaving());
    case proto::FromNode::kVerdict:
      return verdict(message.verdict());
    default:
      CONVOY_LOG(Debug) << "a message of node " << node << " that says nothing was dropped";
  }
}

// A process that was ordered before ranks got other numbers waits as a spare, as its launcher
// knows.
void Supervisor::was_started(int node, const proto::Started& told) {
  proto::Worker worker = told.worker();
  if (told.generation() < renumbered_) worker.set_rank(kNone);
  started(node, worker);
}

void Supervisor::started(int node, const proto::Worker& told) {
  const auto at = state_.ranks.find(told.worker());
  const int rank = at == state_.ranks.end() ? told.rank() : at->second;
  if (rank < kNone || rank >= layout_.ranks()) return;
  Worker& worker = workers_[told.worker()];
  worker.id = told.worker();
  worker.node = node;
  worker.rank = rank;
  if (rank != kNone) place_[static_cast<size_t>(rank)] = node;
  starting_.erase(rank);
  worker.pid = told.pid();
  worker.has_joined = told.has_joined();
  worker.is_new = !told.has_joined() && phase_ != Phase::kSteady;
}

void Supervisor::ended(const proto::Ended& ended) {
  state_.unwanted.erase(ended.worker());
  Worker* found = find(ended.worker());
  if (found == nullptr) return;
  const Worker worker = *found;
  workers_.erase(worker.id);
  if (worker.is_condemned) return;  // who takes its place is known
  if (worker.rank == kNone) return spare_ended(worker);
  if (WIFEXITED(ended.wait_status()) && WEXITSTATUS(ended.wait_status()) == 0) {
    done_.insert(worker.rank);
    return finish();
  }
  std::string what = "rank " + std::to_string(worker.rank) + " (pid " + std::to_string(worker.pid) +
                     ") " + (WIFEXITED(ended.wait_status()) ? "ended: " : "was ended: ") +
                     how_it_ended(ended.wait_status()) + place_of(worker.node);
  if (!worker.last_words.empty()) what += " (" + worker.last_words + ")";
  const bool begins = WIFEXITED(ended.wait_status()) && newest_step() == 0 && !incident_;
  if (begins || is_hopeless(ended.wait_status())) {
    open_incident(name_of(FaultKind::kExit), {worker.rank}, what);
    return stop(exit_code_of_wait(ended.wait_status()), worker.rank,
                begins ? "no step had been done, so another try would end the same way"
                       : "it was given what can't work, so it is not started again");
  }
  code_ = exit_code_of_wait(ended.wait_status());
  const bool is_overtaken = phase_ == Phase::kGathering && !is_another_round(worker);
  fault(kind_of(ended), {worker.rank}, what, worker.node, is_overtaken);
}

// Several that were there before die of one cause, or of several: that is no recovery that failed.
// Nor is it one each time when several that had just been started die: only when the same rank
// has lost more of them than any other.
bool Supervisor::is_another_round(const Worker& worker) {
  if (!worker.is_new) return false;
  int most = 0;  // of another one
  for (const auto& [rank, deaths] : new_deaths_) {
    if (rank != worker.rank) most = std::max(most, deaths);
  }
  return ++new_deaths_[worker.rank] > most;
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
    store_host_ = ready.store_host().empty() ? nodes_[worker.node].address() : ready.store_host();
  }
  if (is_last(worker, &Worker::is_ready)) go();
}

void Supervisor::running(Worker& worker, const proto::Running& running) {
  if (phase_ != Phase::kStarting || running.generation() != state_.generation) return;
  worker.is_running = true;
  if (incident_) {
    incident_->resumed = sane(running.resumed());
    incident_->step = std::max(incident_->step, incident_->resumed);
    if (worker.is_new) {
      char text[200];
      std::snprintf(text, sizeof text,
                    "rank %d has its state from %s (groups %.2f s, state %.2f s, step %.2f s)",
                    worker.rank, running.source().c_str(), running.joined_s(), running.loaded_s(),
                    running.stepped_s());
      event(text);
    }
  }
  if (is_last(worker, &Worker::is_running)) survived();
}

void Supervisor::trouble(Worker& worker, const proto::Trouble& trouble) {
  worker.last_words = trouble.text();
  if (trouble.generation() != state_.generation || trouble.is_final()) return;
  if (trouble.is_corruption()) return corruption(trouble);
  if (trouble.is_held()) {
    is_held_ = phase_ == Phase::kSteady;
    return;
  }
  if (is_held_) return;  // it waits for what the next tick decides
  const std::string who = "rank " + std::to_string(worker.rank);
  const auto code = static_cast<Code>(trouble.code());
  const FaultKind kind = code == Code::kMismatch ? FaultKind::kMismatch : FaultKind::kNetwork;
  fault(kind, {}, who + " reports: " + trouble.text());
}

// All replicas tell; the first one's word begins a generation, for which the others' come too late.
void Supervisor::corruption(const proto::Trouble& trouble) {
  std::vector<int> wrong;
  for (const int rank : trouble.wrong()) {
    if (rank >= 0 && rank < layout_.ranks()) wrong.push_back(rank);
  }
  fault(FaultKind::kCorruption, wrong, trouble.text());
}

void Supervisor::vitals(int node, const proto::Vitals& told) {
  if (const auto& tiers = told.tiers(); tiers.size() == 4) {
    std::copy(tiers.begin(), tiers.end(), tiers_[node].begin());
  }
  for (const proto::Vital& v : told.of()) {
    Worker* worker = find(v.worker());
    if (worker == nullptr) continue;
    const int64_t step = sane(v.step());
    if (step > worker->vitals.step && worker->vitals.training) {
      worker->stepped_at = clock_->now();
    }
    worker->vitals = {.step = step,
                      .waiting = v.waiting(),
                      .training = v.training(),
                      .halted = v.halted(),
                      .took = Nanos(sane(v.step_ns())),
                      .takes_any_mesh = v.takes_any_mesh(),
                      .saving = v.saving()};
  }
  has_new_vitals_ = true;
}

// Of all nodes at once: thousands of them tell, four times a second each.
void Supervisor::look_at_vitals() {
  if (!std::exchange(has_new_vitals_, false) || phase_ != Phase::kSteady) return;
  std::map<int, RankVitals> ranks;
  for (const auto& [id, w] : workers_) {
    if (w.rank != kNone) ranks[w.rank] = w.vitals;
  }
  watch_.take(clock_->now(), ranks);
}

// --- books ---

Supervisor::Worker* Supervisor::find(uint64_t id) {
  const auto at = workers_.find(id);
  return at == workers_.end() ? nullptr : &at->second;
}

const Supervisor::Worker* Supervisor::of_rank(int rank) const {
  if (rank < 0) return nullptr;
  const auto place = static_cast<size_t>(rank);
  if (place >= id_of_rank_.size()) id_of_rank_.resize(place + 1);
  const auto known = workers_.find(id_of_rank_[place]);
  const auto has_it = [&](const Worker& w) { return w.rank == rank && !w.is_condemned; };
  if (known != workers_.end() && has_it(known->second)) return &known->second;
  for (const auto& [id, w] : workers_) {
    if (!has_it(w)) continue;
    id_of_rank_[place] = id;
    return &w;
  }
  return nullptr;
}

Supervisor::Worker* Supervisor::of_rank(int rank) {
  return const_cast<Worker*>(std::as_const(*this).of_rank(rank));
}

std::vector<Supervisor::Worker*> Supervisor::members() {
  std::vector<Worker*> all;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (Worker* w = of_rank(rank); w != nullptr) all.push_back(w);
  }
  return all;
}

// Ranks without the flag, those too whose process is not there yet.
std::vector<int> Supervisor::missing(bool Worker::*flag) {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    const Worker* w = of_rank(rank);
    if (w == nullptr || !(w->*flag)) ranks.push_back(rank);
  }
  return ranks;
}

void Supervisor::await_all() {
  awaited_.clear();
  for (int rank = 0; rank < layout_.ranks(); ++rank) awaited_.insert(awaited_.end(), rank);
}

// Whether `worker` was the last one without the flag. All are looked at only then, since a job may
// have thousands.
bool Supervisor::is_last(const Worker& worker, bool Worker::*flag) {
  awaited_.erase(worker.rank);
  return awaited_.empty() && missing(flag).empty();
}

int64_t Supervisor::newest_step() const {
  int64_t step = 0;
  for (const auto& [id, w] : workers_) step = std::max(step, w.vitals.step);
  return step;
}

double Supervisor::since(TimePoint begin) const {
  return to_seconds(clock_->now() - begin);
}

void Supervisor::event(const std::string& text) {
  if (incident_) incident_->events.push_back({since(seen_at_), text});
}

void Supervisor::say(const std::string& text) {
  proto::ToNode order;
  order.mutable_say()->set_text(text);
  broadcast(order);
}

void Supervisor::save() {
  state_.incident = incident_;
  const Status saved = store_->save(state_);
  if (!saved.ok()) {
    CONVOY_LOG(Error) << "the control state can't be kept: " << saved.message();
  }
}

}  // namespace convoy::resilience
