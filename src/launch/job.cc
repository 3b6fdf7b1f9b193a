// The running job: which event leads to what. Ranks die in an order, and the first is the cause:
// their pidfds are served in the order in which they became readable.
#include "src/launch/job.h"

#include "src/launch/rehearsal.h"
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <map>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

// After a rank's death the others get this long to end by themselves; the promise is 1 s in all.
constexpr Nanos kDeathGrace = std::chrono::milliseconds(600);
// What ranks leave behind gets this long after SIGTERM.
constexpr Nanos kLeftoverGrace = std::chrono::milliseconds(300);
constexpr size_t kReadBytes = 65536;
// Reads of one rank's output after its end: a process that it left behind may write for ever.
constexpr int kFinalReadsMax = 64;

// For CONVOY_AGENT, so that a rank that saves is told of --no-agent.
constexpr const char* kNoAgent = "none";

// The caller's, which --trace takes back.
const std::pair<const std::string, std::string> kRecordsNothing{"CONVOY_TRACE", "off"};

std::string number(int64_t value) {
  return std::to_string(value);
}

}  // namespace

Job::Job(const Plan& plan, AgentLine& agent_line)
    : plan_(plan),
      agent_line_(agent_line),
      terminal_({.prefix = plan.options.prefix, .all_to_stderr = plan.options.json}),
      started_at_(Clock::system().now()) {}

Result<int> Job::run(const UniqueFd& lifeline) {
  CONVOY_RETURN_IF_ERROR(become_subreaper());
  CONVOY_ASSIGN_OR_RETURN(loop_, EventLoop::create());
  CONVOY_RETURN_IF_ERROR(watch_signals());
  CONVOY_RETURN_IF_ERROR(loop_->watch(lifeline.get(), EPOLLIN, [this](uint32_t) {
    guardian_died_ = true;
    loop_->stop();
  }));
  Status status = start();
  if (status.ok()) status = loop_->run();
  if (guardian_died_ || !status.ok()) {
    end_descendants(Nanos(0), {agent_line_.pid->load()});
    int code = kExitInternal;
    drain_agent(&code);
    end_descendants(Nanos(0));
    if (!status.ok()) return status;
    return code;  // nobody is left to read it
  }
  return report();
}

Status Job::watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // a closed stdout is no reason to end the job
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return errno_status("watching signals", errno);
  return loop_->watch(signals_.get(), EPOLLIN, [this](uint32_t) {
    while (const int signal = next_signal()) on_signal(signal);
  });
}

// 0: there is none. A scheduler sends SIGTERM to all processes of a job, and the guardian passes
// its own one on: that is one signal, not two.
int Job::next_signal() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGCHLD) return signal;
    const int seen = std::max(signals_from_guardian_, signals_from_others_);
    const bool is_passed_on = static_cast<pid_t>(info.ssi_pid) == ::getppid();
    int& count = is_passed_on ? signals_from_guardian_ : signals_from_others_;
    if (++count > seen) return signal;
  }
  return 0;
}

Status Job::listen_for_agent() {
  const LaunchOptions& o = plan_.options;
  if (o.agent_program.empty()) return ok_status();
  Agent::Options options{o.agent_program, plan_.inherited,
                         plan_.run_dir + "/logs/agent_" + number(o.node_rank) + ".log"};
  CONVOY_ASSIGN_OR_RETURN(agent_,
                          Agent::create(std::move(options), *loop_, terminal_, agent_line_,
                                        [this](const AgentExit& exit) { on_agent_exit(exit); }));
  return ok_status();
}

Status Job::start() {
  if (plan_.options.rehearsal) terminal_.say(rehearsal_banner(*plan_.options.rehearsal));
  CONVOY_RETURN_IF_ERROR(listen_for_agent());
  if (plan_.options.tracing) {
    tracer_ = Tracer::start(plan_, *loop_, terminal_, [this](const auto& verdict) {
      if (crew_ != nullptr) crew_->verdict(verdict);
    });
  }
  CONVOY_RETURN_IF_ERROR(lead_crew());
  for (int local = 0; local < plan_.options.ranks; ++local) {
    const int rank = plan_.options.node_rank * plan_.options.ranks + local;
    CONVOY_RETURN_IF_ERROR(start_rank(rank, false).with_context("rank " + number(rank)));
  }
  for (int spare = 0; crew_ != nullptr && spare < plan_.options.spares; ++spare) {
    CONVOY_RETURN_IF_ERROR(start_rank(kNoRank, true).with_context("a spare"));
  }
  if (!plan_.options.json) return ok_status();
  StartFacts facts{.job_id = plan_.job_id,
                   .run_dir = plan_.run_dir,
                   .master_addr = plan_.options.master_addr,
                   .master_port = plan_.port,
                   .world_size = plan_.options.nodes * plan_.options.ranks,
                   .mesh = plan_.options.mesh,
                   .ranks = {},
                   .pids = {}};
  for (const auto& rank : ranks_) {
    if (rank->rank == kNoRank) continue;
    facts.ranks.push_back(rank->rank);
    facts.pids.push_back(rank->child.pid);
  }
  terminal_.event(start_event(facts));
  return ok_status();
}

std::vector<std::string> Job::rank_environment(int rank, uint64_t worker, bool standby) const {
  const Plan& plan = plan_;
  const LaunchOptions& o = plan.options;
  std::map<std::string, std::string> values;
  for (const std::string& entry : plan.inherited) {
    const size_t equals = entry.find('=');
    // What torchrun says of its own agent would be wrong here: there is none.
    if (equals == std::string::npos || entry.starts_with("TORCHELASTIC_")) continue;
    values[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  const int global = std::max(rank, 0);  // a spare learns its rank later
  const int local = global % o.ranks;    // as long as each machine has its own ranks
  values["RANK"] = number(global);
  values["WORLD_SIZE"] = number(o.nodes * o.ranks);
  values["LOCAL_RANK"] = number(local);
  values["LOCAL_WORLD_SIZE"] = number(o.ranks);
  values["MASTER_ADDR"] = o.master_addr;
  values["MASTER_PORT"] = number(plan.port);
  values["OMP_NUM_THREADS"] = number(plan.threads);
  values["CONVOY_JOB_ID"] = plan.job_id;
  values["CONVOY_RUN_DIR"] = plan.run_dir;
  values["CONVOY_MESH"] = o.mesh;
  values["CONVOY_AGENT"] = agent_ != nullptr ? agent_->name() : kNoAgent;
  if (crew_ != nullptr) {
    values["CONVOY_CONTROL"] = crew_->control(worker);
    values["CONVOY_STANDBY"] = standby ? "1" : "0";
  }
  values.emplace("CONVOY_GENERATION", "0");
  values.emplace("PYTHONUNBUFFERED", "1");  // else Python's last words are lost in a buffer
  // When rank 0 fails early, torch's store would warn with a page of addresses on all other ranks.
  values.emplace("TORCH_CPP_LOG_LEVEL", "ERROR");
  if (o.tracing) std::erase_if(values, [](const auto& v) { return v == kRecordsNothing; });
  for (const auto& [name, value] : o.environment) values[name] = value;
  if (o.rehearsal) {
    add_rehearsal(*o.rehearsal, plan.preloaded, reports_of(rank, worker), &values);
  }
  std::vector<std::string> result;
  for (const auto& [name, value] : values) result.push_back(name + "=" + value);
  return result;
}

// Of a rehearsal. A spare has no rank yet.
std::string Job::reports_of(int rank, uint64_t worker) const {
  if (rank != kNoRank) return report_folder(plan_.run_dir, rank);
  return plan_.run_dir + "/rehearsal/spare_" + number(static_cast<int64_t>(worker));
}

Status Job::start_rank(int rank, bool standby) {
  // Of no other process of the job, on whatever machine.
  const uint64_t worker =
      (static_cast<uint64_t>(plan_.options.node_rank) << 32U) + first_worker_ + ranks_.size() + 1;
  const std::string name = rank == kNoRank ? "spare" : "rank_" + number(rank);
  CONVOY_ASSIGN_OR_RETURN(RankLog log, RankLog::open(plan_.run_dir + "/logs/" + name + ".log"));
  if (plan_.options.rehearsal) {
    CONVOY_RETURN_IF_ERROR(make_report_folder(reports_of(rank, worker)));
  }
  CONVOY_ASSIGN_OR_RETURN(Child child, spawn(plan_.path, plan_.options.program,
                                             rank_environment(rank, worker, standby)));
  if (crew_ != nullptr) crew_->started(worker, rank, child.pid);
  ranks_.push_back(std::make_unique<Rank>(
      Rank{worker, rank, std::move(child), std::move(log), LineSplitter(), LineSplitter(), {}}));
  ranks_.back()->reports = reports_of(rank, worker);
  ++running_;
  if (tracer_ != nullptr) tracer_->watch(ranks_.back()->child.pid);
  return watch(*ranks_.back());
}

Status Job::watch(Rank& rank) {
  CONVOY_RETURN_IF_ERROR(
      loop_->watch(rank.child.pidfd.get(), EPOLLIN, [this, &rank](uint32_t) { on_exit(rank); }));
  CONVOY_RETURN_IF_ERROR(loop_->watch(rank.child.out.get(), EPOLLIN,
                                      [this, &rank](uint32_t) { on_output(rank, false); }));
  return loop_->watch(rank.child.err.get(), EPOLLIN,
                      [this, &rank](uint32_t) { on_output(rank, true); });
}

// Reads once; false when there is nothing more, now or ever.
bool Job::read_output(Rank& rank, bool is_error) {
  UniqueFd& fd = is_error ? rank.child.err : rank.child.out;
  if (!fd) return false;
  std::array<char, kReadBytes> bytes;
  const ssize_t count = ::read(fd.get(), bytes.data(), bytes.size());
  if (count < 0) return errno == EINTR;
  if (count == 0) {
    loop_->unwatch(fd.get());
    fd.reset();
    return false;
  }
  LineSplitter& splitter = is_error ? rank.err : rank.out;
  splitter.feed({bytes.data(), static_cast<size_t>(count)},
                [&](std::string_view text, bool is_progress) {
                  if (!is_progress) {
                    rank.log.add(text);
                    terminal_.add(rank.rank, text, is_error);
                  } else if (rank.rank == 0) {
                    terminal_.progress(rank.rank, text);
                  }
                });
  return true;
}

void Job::on_output(Rank& rank, bool is_error) {
  read_output(rank, is_error);
  const bool could_write = rank.log.error().ok();
  rank.log.flush();
  if (could_write && !rank.log.error().ok()) {
    terminal_.say("convoy: the log of rank " + number(rank.rank) +
                  " can't be written: " + rank.log.error().message());
  }
  terminal_.flush();
}

void Job::finish_output(Rank& rank) {
  for (const bool is_error : {false, true}) {
    for (int i = 0; i < kFinalReadsMax && read_output(rank, is_error); ++i) {
    }
    (is_error ? rank.err : rank.out).finish([&](std::string_view text, bool) {
      rank.log.add(text);
      terminal_.add(rank.rank, text, is_error);
    });
    UniqueFd& fd = is_error ? rank.child.err : rank.child.out;
    if (fd) loop_->unwatch(fd.get());
    fd.reset();
  }
  rank.log.flush();
  terminal_.flush();
}

void Job::on_exit(Rank& rank) {
  int wait_status = 0;
  if (::waitpid(rank.child.pid, &wait_status, WNOHANG) != rank.child.pid) return;
  loop_->unwatch(rank.child.pidfd.get());
  if (tracer_ != nullptr) tracer_->ended(rank.child.pid, wait_status);
  finish_output(rank);
  rank.exit = RankExit{.rank = rank.rank,
                       .pid = rank.child.pid,
                       .wait_status = wait_status,
                       .was_asked = ending_,
                       .was_halted = rank.halted,
                       .at = Clock::system().now() - started_at_,
                       .log = rank.log.path(),
                       .reports = rank.reports};
  --running_;
  const bool survived = is_survived(rank);
  const bool is_cause = !is_success(*rank.exit) && !ending_ && !survived;
  if (is_cause) cause_ = &rank;
  if (plan_.options.json) terminal_.event(exit_event(*rank.exit, is_cause));
  if (crew_ != nullptr) crew_->ended(rank.worker, wait_status);
  if (has_ended()) {
    ending_ = true;
    if (crew_ != nullptr) crew_->let_go();
    signal_ranks(SIGTERM);  // spares
    loop_->after(kLeftoverGrace, [this] { signal_ranks(SIGKILL); });
    if (running_ == 0) loop_->stop();
  } else if (is_cause) {
    note_halted();
    if (crew_ != nullptr) {
      crew_->leave(code_of(*rank.exit), "rank " + number(rank.rank) + ": " + how(*rank.exit));
    }
    end_ranks(SIGTERM, kDeathGrace);
    if (running_ == 0) loop_->stop();
  }
}

// Whether the job goes on without this process: its supervisor sees to that, if it can. What dies
// before all ranks have come is most likely a mistake that all of them make.
bool Job::is_survived(const Rank& rank) {
  if (rank.rank == kNoRank || rank.is_replaced) return true;
  if (crew_ == nullptr || ending_ || !crew_->leads()) return false;
  // Once is enough: later there are those that are on their way to a failed one's place.
  all_had_come_ = all_had_come_ || std::all_of(ranks_.begin(), ranks_.end(), [&](const auto& r) {
                    return r->exit || r->rank == kNoRank || crew_->has_joined(r->worker);
                  });
  return WIFSIGNALED(rank.exit->wait_status) || all_had_come_;
}

// No rank is left that anything is to be expected of.
bool Job::has_ended() const {
  if (running_ == 0 && ending_) return true;
  if (plan_.options.nodes > 1 && crew_ != nullptr && crew_->leads()) return false;  // see end_job()
  std::map<int, const Rank*> newest;
  for (const auto& rank : ranks_) {
    if (rank->rank != kNoRank) newest[rank->rank] = rank.get();
  }
  return std::all_of(newest.begin(), newest.end(), [&](const auto& entry) {
    const Rank& rank = *entry.second;
    return rank.exit && (is_success(*rank.exit) || ending_ || crew_ == nullptr);
  });
}

// Of each rank's last process.
std::vector<RankExit> Job::last_exits() const {
  std::map<int, RankExit> exits;
  for (const auto& rank : ranks_) {
    if (rank->rank != kNoRank && rank->exit) exits[rank->rank] = *rank->exit;
  }
  std::vector<RankExit> all;
  for (const auto& [rank, exit] : exits) all.push_back(exit);
  return all;
}

void Job::on_signal(int signal) {
  if (signal == SIGCHLD) {
    reap_adopted([this](pid_t pid) {
      for (const auto& rank : ranks_) {
        if (rank->child.pid == pid) return true;
      }
      return (agent_ != nullptr && agent_->pid() == pid) ||
             (tracer_ != nullptr && tracer_->pid() == pid) ||
             (crew_ != nullptr && crew_->owns(pid));
    });
    return;
  }
  if (draining_) {
    give_up_ = stopped_by_.has_value();
    if (!give_up_) {
      terminal_.say("convoy: " + signal_name(signal) +
                    ": a checkpoint is still being written; a second one gives it up.");
    }
    stopped_by_ = signal;
    return;
  }
  if (stopped_by_) {
    terminal_.say("convoy: " + signal_name(signal) + " again: killing the ranks.");
    signal_ranks(SIGKILL);
    return;
  }
  stopped_by_ = signal;
  if (tracer_ != nullptr) tracer_->job_is_stopped();
  const Nanos grace = plan_.options.grace;
  terminal_.say("convoy: " + signal_name(signal) + ": asked " + number(running_) +
                " ranks to end; SIGKILL in " + format_duration(grace) + ", or on a second one.");
  if (crew_ != nullptr) crew_->leave(kExitSignalBase + signal, signal_name(signal));
  end_ranks(signal, grace);
}

// What can't be survived, or several machines' success: the supervisor knows the cause, and the
// exit code.
void Job::end_job(int code, int cause, const std::string& why) {
  if (ending_) return;
  verdict_ = code;
  if (code != kExitOk) terminal_.say("convoy: the job ends: " + why);
  for (const auto& rank : ranks_) {
    if (cause != kNoRank && rank->rank == cause && rank->exit) cause_ = rank.get();
  }
  note_halted();
  end_ranks(SIGTERM, kDeathGrace);
  if (running_ == 0) loop_->stop();
}

// The caller's environment, what the contract says, and the user's own, in rising order.

void Job::end_ranks(int signal, Nanos grace) {
  ending_ = true;
  if (crew_ != nullptr) crew_->let_go();  // else what is ended would be replaced
  signal_ranks(signal);
  loop_->after(grace, [this] { signal_ranks(SIGKILL); });
}

// The others may have died of waiting for such a rank.
void Job::note_halted() {
  for (const auto& rank : ranks_) {
    siginfo_t info{};
    rank->halted = !rank->exit &&
                   ::waitid(P_PID, static_cast<id_t>(rank->child.pid), &info,
                            WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
                   info.si_pid == rank->child.pid;
  }
}

void Job::signal_ranks(int signal) {
  for (const auto& rank : ranks_) {
    if (rank->exit) continue;
    ::kill(-rank->child.pid, signal);
    if (signal != SIGKILL) ::kill(-rank->child.pid, SIGCONT);  // a stopped rank would not see it
  }
}

int Job::report() {
  terminal_.end_progress();
  if (tracer_ != nullptr) tracer_->job_has_ended();
  const size_t leftovers = end_descendants(
      kLeftoverGrace, {agent_line_.pid->load(), tracer_ != nullptr ? tracer_->pid() : 0,
                       crew_ != nullptr ? crew_->pid() : 0});
  const Nanos elapsed = Clock::system().now() - started_at_;
  int code = kExitOk;
  if (crew_ != nullptr) crew_->close();
  if (cause_ != nullptr) {
    terminal_.say(failure_text(*cause_->exit, cause_->log.tail(), last_exits()));
    code = code_of(*cause_->exit);
  } else if (verdict_) {
    code = *verdict_;
  } else if (stopped_by_) {
    code = kExitSignalBase + *stopped_by_;
    terminal_.say("convoy: ended by " + signal_name(*stopped_by_) + " after " +
                  format_duration(elapsed) + "; logs: " + plan_.run_dir + "/logs");
  }
  if (leftovers > 0) {
    terminal_.say("convoy: ended " + number(static_cast<int64_t>(leftovers)) +
                  " processes that the ranks had left behind.");
  }
  drain_agent(&code);
  if (give_up_) code = kExitSignalBase + *stopped_by_;
  finish_trace();
  if (plan_.options.rehearsal) report_rehearsal(&code);
  if (plan_.options.json) {
    const auto rank = cause_ != nullptr ? std::optional(cause_->rank) : std::nullopt;
    terminal_.event(end_event(code, rank, elapsed));
  }
  return code;
}

void Job::on_agent_exit(const AgentExit& exit) {
  const RankExit how_it_ended{.rank = kNoRank,
                              .pid = exit.pid,
                              .wait_status = exit.wait_status,
                              .at = Clock::system().now() - started_at_,
                              .log = agent_->log_path()};
  terminal_.say("convoy: the agent, which keeps checkpoints, died: " + how(how_it_ended) +
                ", pid " + number(exit.pid) +
                ". The job goes on. Saves that were not written yet are lost; the next one starts "
                "a new agent. Its log: " +
                agent_->log_path());
  if (plan_.options.json) terminal_.event(agent_event(how_it_ended));
}

void Job::drain_agent(int* code) {
  if (agent_ == nullptr) return;
  draining_ = true;
  const Status drained = agent_->drain([this](const DrainNews& news) {
    if (!news.what().empty()) terminal_.say_progress(drain_text(news.what(), news.part()));
    return wants_to_give_up();
  });
  terminal_.end_progress();
  if (drained.ok()) return;
  terminal_.say("convoy: a checkpoint is lost: " + drained.message() +
                " The steps committed before are whole.");
  if (*code == kExitOk) *code = kExitNotWritten;
}

// Signals, while the loop does not run.
bool Job::wants_to_give_up() {
  while (const int signal = next_signal()) {
    if (signal != SIGCHLD) on_signal(signal);
  }
  return give_up_;
}

void Job::finish_trace() {
  if (tracer_ == nullptr) return;
  tracer_->finish([this] {
    while (const int signal = next_signal()) {
      if (signal != SIGCHLD) return true;
    }
    return false;
  });
}

void Job::report_rehearsal(int* code) {
  const std::vector<RankExit> exits = last_exits();
  const Rehearsal& rehearsal = *plan_.options.rehearsal;
  const bool recovered = crew_ != nullptr && cause_ == nullptr &&
                         std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) {
                           return rank->rank != kNoRank && rank->exit && !is_success(*rank->exit);
                         });
  const RehearsalSummary summary = summarize_rehearsal(plan_.run_dir, exits, recovered);
  terminal_.say(rehearsal_text(rehearsal, summary, plan_.run_dir));
  if (plan_.options.json) terminal_.event(rehearsal_event(rehearsal, summary));
  if (*code == kExitOk && !summary.findings.empty()) *code = kExitFindings;
}

}  // namespace convoy::launch
