#include "src/resilience/chaos/session.h"

#include "src/resilience/chaos/disk.h"
#include "src/resilience/chaos/link.h"
#include "src/resilience/chaos/saved.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

namespace convoy::resilience::chaos {
namespace {

constexpr Nanos kTick = std::chrono::milliseconds(20);
constexpr Nanos kFastTick = std::chrono::milliseconds(2);  // while a recovery is waited for
constexpr Nanos kHouseholdPeriod = std::chrono::milliseconds(300);
constexpr double kAttachS = 60;
// A recovery: the hang is found; ranks leave the old generation (5 s and 4 steps), processes start.
constexpr double kStartS = 60;
constexpr double kRetryS = 2;           // a fault that can't happen just now
constexpr double kRecoveryBeginS = 15;  // until one is seen that a fault should follow
constexpr double kEndS = 30;            // of processes, behind their launcher
constexpr int64_t kMoreSteps = 2;       // that prove that a job trains again
constexpr double kSaveS = 20;           // the agent pauses between its attempts
constexpr double kLogS = 10;            // from a rank's words to its log

double unix_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::set<pid_t> pids_of(const Sight& sight) {
  std::set<pid_t> pids;
  for (const Seat& seat : sight.seats) pids.insert(seat.pid);
  return pids;
}

// Of any process: one that has taken a rank's place goes on with a log under another name.
bool is_in_a_log(const std::string& folder, const std::string& words) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream log(entry.path());
    const std::string text{std::istreambuf_iterator<char>(log), {}};
    if (text.find(words) != std::string::npos) return true;
  }
  return false;
}

// Everything but that it trains: who should be there is there.
bool is_whole(const Sight& sight) {
  return sight.phase == "training" && !sight.is_recovering &&
         std::ssize(sight.seats) == sight.ranks() &&
         std::none_of(sight.seats.begin(), sight.seats.end(),
                      [](const Seat& s) { return s.is_new || s.halted; });
}

}  // namespace

Result<Session> Session::attach(Options options) {
  Session session(std::move(options));
  const TimePoint began = Clock::system().now();
  while (true) {
    auto sight = look(session.options_.run_dir);
    const bool may_come = sight.ok() || sight.status().code() == Code::kUnavailable;
    if (sight.ok() && is_whole(*sight) && sight->least_step() > 0) {
      session.sight_ = std::move(sight).value();
      break;
    }
    if (!may_come || seconds_since(began) > kAttachS) {
      if (!sight.ok()) return sight.status();
      return Status(Code::kUnavailable, "the job does not train: it is " + sight->phase +
                                            ", step " + std::to_string(sight->step));
    }
    std::this_thread::sleep_for(kTick);
  }
  const pid_t launcher = launcher_of(session.sight_.seats.front().pid);
  session.launcher_ = identify(launcher);
  if (launcher == 0) {
    return Status(Code::kUnavailable,
                  "the job's launcher is not on this machine, or in another process namespace");
  }
  session.began_ = session.answered_at_ = session.moved_at_ = Clock::system().now();
  session.settled_at_ = session.began_;
  session.meet_household();
  const auto incidents = read_incidents(session.options_.run_dir);
  session.incidents_before_ = incidents.ok() ? incidents->size() : 0;
  return session;
}

Target Session::target() const {
  const auto mesh = Mesh::parse(sight_.mesh, sight_.ranks());
  const bool compares =
      mesh.ok() && !options_.promise.is_sharded && options_.promise.check_steps > 0;
  const OwnDisk disk = own_disk(options_.checkpoints);
  return {.ranks = static_cast<int>(sight_.seats.size()),
          .has_spares = !home_.spares.empty(),
          .has_agent = home_.agent != 0,
          .has_tracer = home_.tracer != 0,
          .has_folder = !options_.checkpoints.empty(),
          .replicas = compares ? mesh->size("dp") : 1,
          .has_disk = disk.is_own,
          .can_freeze = disk.can_freeze,
          .has_link = !options_.link.empty()};
}

// --- seeing ---

void Session::meet_household() {
  home_ = find_household(launcher_.pid, pids_of(sight_));
  for (const auto& [pid, process] : home_.all) seen_.insert(process);
  met_at_ = Clock::system().now();
}

bool Session::observe() {
  if (!is_alive(launcher_)) {
    job_has_ended_ = is_over_ = true;
    return false;
  }
  auto sight = look(options_.run_dir);
  const TimePoint now = Clock::system().now();
  is_fresh_ = sight.ok();
  if (sight.ok()) {
    answered_at_ = now;
    sight_ = std::move(sight).value();
    invariants_.check("generation", sight_.generation >= newest_generation_,
                      "it went back from " + std::to_string(newest_generation_) + " to " +
                          std::to_string(sight_.generation));
    newest_generation_ = std::max(newest_generation_, sight_.generation);
  }
  if (now - met_at_ > kHouseholdPeriod) meet_household();
  check_progress();
  return !is_over_;
}

// All ranks must come forward, throughout.
void Session::check_progress() {
  const TimePoint now = Clock::system().now();
  if (sight_.least_step() > least_step_ || sight_.generation != generation_) moved_at_ = now;
  least_step_ = sight_.least_step();
  generation_ = sight_.generation;
  const double still = to_seconds(now - moved_at_);
  if (still < deadline_s()) return;
  invariants_.check(
      "progress", false,
      "no step of all ranks for " + format_duration(now - moved_at_) + ": " + who_is_missing());
  is_over_ = true;
}

double Session::deadline_s() const {
  if (options_.deadline_s > 0) return options_.deadline_s;
  return 2 * std::max(sight_.hang_limit_s, 2.0) + 5 + kStartS;
}

std::string Session::who_is_missing() const {
  const double silent = seconds_since(answered_at_);
  std::string text =
      "the job is " + sight_.phase + " in generation " + std::to_string(sight_.generation);
  if (silent > 1) text += ", its supervisor has been silent for " + std::to_string(silent) + " s";
  for (int rank = 0; rank < sight_.ranks(); ++rank) {
    const Seat* seat = sight_.of_rank(rank);
    const std::string name = "; rank " + std::to_string(rank);
    if (seat == nullptr) {
      text += name + " has no process";
    } else if (seat->halted) {
      text += name + " is halted";
    } else if (seat->step == sight_.least_step() && !seat->waiting) {
      text += name + " has done step " + std::to_string(seat->step) + " and waits for nobody";
    }
  }
  for (const Event& e : sight_.events) text += "; " + std::to_string(e.at) + " s " + e.text;
  return text;
}

// --- doing ---

// False: its turn never comes.
bool Session::await_turn(const Fault& fault) {
  const TimePoint began = Clock::system().now();
  while (observe()) {
    if (sight_.step >= options_.before_step) return false;
    if (fault.in_recovery) {
      const bool recovers = is_fresh_ && (sight_.is_recovering || sight_.phase != "training");
      const bool is_past = sight_.generation > done_.back().generation && is_fresh_;
      const double limit = kRecoveryBeginS + sight_.hang_limit_s;
      const bool is_idle = !done_.back().why_not.empty() || seconds_since(began) > limit;
      if (recovers || is_past || is_idle) return true;
    } else if (fault.at_step >= 0 ? sight_.step >= fault.at_step
                                  : seconds_since(settled_at_) >= fault.after_s) {
      return true;
    }
    std::this_thread::sleep_for(fault.in_recovery ? kFastTick : kTick);
  }
  return false;
}

void Session::inject(const Fault& fault) {
  Done done{.id = static_cast<int>(done_.size()) + 1, .fault = fault};
  const TimePoint began = Clock::system().now();
  Status why_not;
  do {
    meet_household();
    done.step = sight_.step;
    done.generation = sight_.generation;
    done.was_recovering = sight_.is_recovering || sight_.phase != "training";
    done.unix_time = unix_now();
    auto struck = strike(fault, {sight_, home_, options_.checkpoints, options_.link});
    why_not = struck.status();
    if (struck.ok()) done.struck = std::move(struck).value();
    if (why_not.code() != Code::kFailedPrecondition) break;  // it has happened, or never will
    std::this_thread::sleep_for(kFastTick);
  } while (seconds_since(began) < kRetryS && observe());
  if (!done.struck.helpers.empty()) {
    hold(fault);
    const bool is_felt = !strikes_link(fault.kind) || packets_hit(options_.link) > 0;
    if (!is_felt)
      why_not = {Code::kDeadlineExceeded, "nothing went over the link " + options_.link};
    end_helpers(done.struck);
  }
  if (!why_not.ok()) done.why_not = why_not.message();
  options_.say(std::to_string(done.id) + ". step " + std::to_string(done.step) + ", generation " +
               std::to_string(done.generation) + ": " + describe(fault) +
               (why_not.ok() ? "" : ": not done: " + done.why_not));
  write(done);
  done_.push_back(std::move(done));
}

// As long as it should last; a disk until the job was seen to train on without it, too.
void Session::hold(const Fault& fault) {
  const TimePoint began = Clock::system().now();
  const int64_t steps = strikes_disk(fault.kind) ? sight_.least_step() + kMoreSteps : 0;
  while ((seconds_since(began) < fault.seconds || sight_.least_step() < steps) && observe()) {
    std::this_thread::sleep_for(kTick);
  }
}

// Whoever was struck has left; all ranks are there.
bool Session::is_settled() const {
  if (!is_fresh_ || !is_whole(sight_)) return false;
  const std::set<pid_t> pids = pids_of(sight_);
  for (const Done& done : done_) {
    if (!done.why_not.empty() || done.fault.kind == Kind::kPause) continue;
    for (const ProcessId& struck : done.struck.processes) {
      if (pids.contains(struck.pid) || home_.supervisor == struck.pid) return false;
    }
  }
  return home_.supervisor != 0;
}

// Until all ranks train again behind the faults from `first` on.
void Session::settle(size_t first) {
  const TimePoint began = Clock::system().now();
  int64_t base = -1;
  double back = -1;
  while (observe()) {
    if (!is_settled()) {
      base = -1;
    } else if (base < 0) {
      base = sight_.least_step();
      back = unix_now() - done_[first].unix_time;
    } else if (sight_.least_step() >= base + kMoreSteps) {
      break;
    }
    // Generations that follow each other without a step are movement, too.
    if (seconds_since(began) > 2 * deadline_s()) {
      invariants_.check("progress", false,
                        "the job does not come to rest behind " + describe(done_[first].fault) +
                            ": " + who_is_missing());
      is_over_ = true;
    }
    std::this_thread::sleep_for(kTick);
  }
  settled_at_ = Clock::system().now();
  if (is_over_) return;
  invariants_.check("progress", true, "");
  for (size_t i = first; i < done_.size(); ++i) {
    if (done_[i].why_not.empty()) done_[i].back_s = back;
  }
}

// Only some steps later: until then the job seems to be at rest.
void Session::await_found(const Done& flip) {
  const int64_t last = flip.struck.flipped_step + options_.promise.check_steps + kMoreSteps;
  while (sight_.generation == flip.generation && sight_.least_step() <= last && observe()) {
    std::this_thread::sleep_for(kTick);
  }
}

// Of two replicas each knows, once it has come to that step again, whether it had been wrong.
void Session::await_culprit(const Done& flip) {
  const auto incidents = read_incidents(options_.run_dir);
  const IncidentRecord* found = incidents.ok() ? found_by(flip, *incidents) : nullptr;
  if (found == nullptr || !found->ranks.empty()) return;  // not found, or a majority has named it
  const int64_t step = differing_step(*found);
  const std::string rank = std::to_string(flip.struck.ranks.front());
  const std::string words =
      "rank " + rank + " had held wrong values after step " + std::to_string(step) + ":";
  while (sight_.least_step() <= step && observe()) std::this_thread::sleep_for(kTick);
  if (is_over_) return;
  const TimePoint came = Clock::system().now();
  bool is_told = false;
  while (!is_told && seconds_since(came) < kLogS && observe()) {
    is_told = is_in_a_log(options_.run_dir + "/logs", words);
  }
  invariants_.check("culprit", is_told, "no log says that " + words.substr(0, words.size() - 1));
}

// What is done to the disk costs saves while it lasts, and none later.
void Session::await_saves() {
  const TimePoint began = Clock::system().now();
  const int64_t freed = sight_.least_step(), steps = options_.promise.folder_steps;
  int64_t saved = -1;
  do {
    std::this_thread::sleep_for(kTick);
    saved = newest_saved_step(options_.checkpoints);
  } while (saved < freed && observe() &&
           (sight_.least_step() < freed + steps || seconds_since(began) < kSaveS));
  if (is_over_) return;
  invariants_.check("saves_again", saved >= freed,
                    "the disk has worked again since step " + std::to_string(freed) +
                        ", now it is " + std::to_string(sight_.least_step()) +
                        ", the newest saved step is " + std::to_string(saved));
  // Until the folder is as new as it promises to be, whatever comes next.
  while (sight_.least_step() < saved + steps && observe()) std::this_thread::sleep_for(kTick);
}

// Processes that nobody struck stay.
void Session::check_bystanders(const std::vector<Seat>& before, size_t first) {
  std::set<int> struck;
  for (size_t i = first; i < done_.size(); ++i) {
    const Struck& s = done_[i].struck;
    if (breaks_ranks(done_[i].fault.kind)) struck.insert(s.ranks.begin(), s.ranks.end());
    // A machine that counts as lost takes its ranks with it.
    if (strikes_link(done_[i].fault.kind) && needs_recovery(done_[i].fault)) return;
  }
  for (const Seat& was : before) {
    const Seat* is = sight_.of_rank(was.rank);
    if (struck.contains(was.rank)) continue;
    invariants_.check("bystanders", is != nullptr && is->pid == was.pid,
                      "rank " + std::to_string(was.rank) + " (pid " + std::to_string(was.pid) +
                          ") was replaced, though fault " + std::to_string(done_[first].id) +
                          " did not strike it");
  }
  const std::set<pid_t> pids = pids_of(sight_);
  invariants_.check(
      "all_present", pids.size() == before.size(),
      std::to_string(pids.size()) + " processes have ranks, of " + std::to_string(before.size()));
}

void Session::write(const Done& d) const {
  std::ofstream file(options_.run_dir + "/chaos.jsonl", std::ios::app);
  file << to_json(d) << "\n";
}

Report Session::run(const std::vector<Fault>& plan) {
  for (size_t i = 0; i < plan.size() && !is_over_; ++i) {
    const size_t first = done_.size();
    if (!await_turn(plan[i])) break;
    const std::vector<Seat> seats = sight_.seats;
    inject(plan[i]);
    if (done_.back().struck.flipped_step >= 0) await_found(done_.back());
    while (i + 1 < plan.size() && plan[i + 1].in_recovery && !is_over_ && await_turn(plan[i + 1])) {
      inject(plan[++i]);
    }
    if (!is_over_) settle(first);
    if (!is_over_) check_bystanders(seats, first);
    if (done_.back().struck.flipped_step >= 0) await_culprit(done_.back());
    if (strikes_disk(done_.back().fault.kind) && done_.back().why_not.empty()) await_saves();
  }
  if (options_.stays) await_end();
  return report(static_cast<int>(plan.size()));
}

// --- the end ---

void Session::await_end() {
  while (observe()) std::this_thread::sleep_for(10 * kTick);
  if (job_has_ended_) check_nothing_left();
}

void Session::check_nothing_left() {
  const TimePoint began = Clock::system().now();
  std::string left;
  do {
    left.clear();
    for (const ProcessId& process : seen_) {
      if (is_alive(process)) left += " " + std::to_string(process.pid);
    }
    std::this_thread::sleep_for(kTick);
  } while (!left.empty() && seconds_since(began) < kEndS);
  invariants_.check("no_orphans", left.empty(), "left behind by the job:" + left);
}

Report Session::report(int planned) {
  const auto incidents = read_incidents(options_.run_dir);
  Report report{.job = sight_.job, .done = done_, .planned = planned};
  if (incidents.ok() && incidents->size() > incidents_before_) {
    report.incidents.assign(incidents->begin() + static_cast<std::ptrdiff_t>(incidents_before_),
                            incidents->end());
  }
  std::vector<Spoilt> spoilt;
  if (const auto mesh = Mesh::parse(sight_.mesh, sight_.ranks()); mesh.ok()) {
    check_incidents(report.incidents, done_, *mesh, options_.promise, &invariants_);
    spoilt = spoilt_by(done_, *mesh, options_.promise);
  }
  const auto metrics = read_metrics(options_.run_dir + "/metrics.jsonl");
  const auto reference =
      options_.reference.empty() ? Result<Metrics>(Metrics()) : read_metrics(options_.reference);
  if (!reference.ok()) invariants_.check("numbers", false, reference.status().message());
  if (metrics.ok() && reference.ok()) {
    check_metrics(*metrics, *reference, options_.tolerance, spoilt, &invariants_);
  }
  // A job that goes while a fault is open has not survived it, unless its record says so.
  const bool is_open = job_has_ended_ && !done_.empty() && done_.back().back_s < 0 &&
                       done_.back().why_not.empty() && needs_recovery(done_.back().fault);
  const bool is_told = !report.incidents.empty() && report.incidents.back().survived &&
                       report.incidents.back().next_generation > done_.back().generation;
  if (is_open) invariants_.check("progress", is_told, "the job ended behind the last fault");
  report.invariants = invariants_.list();
  report.all_hold = invariants_.all_hold();
  report.job_has_ended = job_has_ended_;
  report.elapsed_s = seconds_since(began_);
  double lost = 0;
  for (const IncidentRecord& r : report.incidents) lost += std::max(r.first_step, 0.0);
  if (report.elapsed_s > 0) report.goodput = 1 - std::min(1.0, lost / report.elapsed_s);
  return report;
}

}  // namespace convoy::resilience::chaos
