// Fault points ckpt.agent.{hello,acquire,staged,answer,wait}.kill: the process dies when it was
// asked that, and once it has taken a snapshot over, before it says so.
//
// Sessions: who is connected, what they asked for, and what waits for an answer. What a step is and
// how far it has come is agent_job.cc's.
#include "ckpt/service/agent_job.h"
#include "ckpt/service/messages.pb.h"
#include "ckpt/service/packet.h"
#include "ckpt/service/protocol.h"
#include "ckpt/service/scrubber.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fault.h>
#include <convoy/base/log.h>
#include <convoy/base/socket.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/agent.h>

#include <csignal>
#include <fcntl.h>
#include <future>
#include <list>
#include <mutex>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr size_t kSessionsMax = 4096;
constexpr auto kDrainEvery = 100ms;  // looks whether all is written

class Agent {
 public:
  explicit Agent(AgentOptions options) : options_(std::move(options)) {}
  Status run();

 private:
  struct Session {
    UniqueFd fd;
    std::shared_ptr<AgentJob> job;  // once it has said Hello; shared with its other ranks
    uint32_t rank = 0;
    std::function<bool()> waiting;  // tries to answer; true: it has
    EventLoop::TimerId deadline{};
    bool has_deadline = false;
    bool gone = false;
  };

  Status watch();
  Status watch_signals();
  void on_connect();
  void on_packet(Session& session);
  void close(Session& session);
  void sweep();

  Status handle(Session& session, const proto::Ask& ask);
  Status hello(Session& session, const proto::Hello& hello);
  Result<std::shared_ptr<AgentJob>> job_for(const Workers& workers);
  void open_remote(const Workers& workers);
  Status reserve(Session& session, const proto::Reserve& reserve);
  Status acquire(Session& session, const proto::Acquire& acquire);
  Status staged(Session& session, const proto::Staged& staged);
  Status wait(Session& session, const proto::Wait& wait);
  Status find(Session& session);
  Status ensure_cluster();
  void start_scrubber();
  std::optional<HeldCopy> held_copy();

  void answer(Session& session, const proto::Answer& answer, int fd = -1);
  void fail(Session& session, const Status& status);
  // Answers when `attempt` can, or with `late` after the time.
  void when_possible(Session& session, uint64_t timeout_ns, std::function<bool()> attempt,
                     Status late, std::function<void()> gave_up = {});
  void retry_waiting();

  void post(std::function<void()> what);  // any thread
  void run_posted();
  void rest();
  void end();
  bool is_writing() const;
  void drain();
  void tell_launcher(const std::string& text);

  const AgentOptions options_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd listener_, signals_, wake_;
  std::list<Session> sessions_;
  std::unique_ptr<Cluster> cluster_;  // once there are other nodes
  std::shared_ptr<DiskTier> disk_;
  std::unique_ptr<Scrubber> scrubber_;
  std::string folder_;
  std::shared_ptr<RemoteTier> remote_;
  std::string remote_place_;
  // Of the newest generation, and of the last one before it that has a whole step.
  std::shared_ptr<AgentJob> job_, before_;
  bool ending_ = false, retrying_ = false;
  EventLoop::TimerId idle_{};
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
};

void may_die(const char* point) {
  if (fault::strikes(point)) ::raise(SIGKILL);
}

proto::Answer done() {
  proto::Answer answer;
  answer.set_done(true);
  return answer;
}

Workers workers_of(const proto::Hello& hello) {
  Workers w;
  w.job = hello.job();
  w.generation = hello.generation();
  w.world_size = hello.world_size();
  w.local_size = hello.local_size();
  w.mesh = hello.mesh();
  w.folder = hello.folder();
  w.keep_newest = hello.keep_newest();
  w.keep_every = hello.keep_every();
  w.disk_every = hello.disk_every();
  w.bandwidth = hello.bandwidth();
  w.incremental = hello.incremental();
  w.take_over = hello.take_over();
  w.compress = static_cast<int>(hello.compress());
  w.remote = hello.remote();
  w.remote_every = hello.remote_every();
  w.remote_keep_newest = hello.remote_keep_newest();
  w.remote_keep_every = hello.remote_keep_every();
  w.remote_bandwidth = hello.remote_bandwidth();
  w.remote_compress = static_cast<int>(hello.remote_compress());
  w.node = hello.node();
  w.nodes = std::max<uint32_t>(1, hello.nodes());
  w.coordinator = hello.coordinator();
  w.domain = hello.domain();
  w.step_timeout = Nanos(hello.step_timeout_ns());
  w.peer_timeout = Nanos(hello.peer_timeout_ns());
  w.replica_k = std::max<uint32_t>(1, hello.replica_k());
  w.replica_m = hello.replica_m();
  w.replica_bandwidth = hello.replica_bandwidth();
  return w;
}

std::string job_text(const Workers& w) {
  return "job '" + w.job + "' generation " + std::to_string(w.generation);
}

Status Agent::run() {
  CONVOY_ASSIGN_OR_RETURN(loop_, EventLoop::create());
  if (options_.listener >= 0) {
    listener_.reset(options_.listener);
  } else {
    CONVOY_ASSIGN_OR_RETURN(listener_, listen_packets(options_.name));
  }
  CONVOY_RETURN_IF_ERROR(watch_signals());
  CONVOY_RETURN_IF_ERROR(watch());
  rest();
  if (options_.ready) options_.ready();
  CONVOY_RETURN_IF_ERROR(loop_->run());
  scrubber_.reset();
  sessions_.clear();
  job_.reset();
  before_.reset();
  // Nothing is left for them, or somebody wants the end at once.
  if (remote_ != nullptr) remote_->abandon();
  remote_.reset();
  cluster_.reset();
  disk_.reset();  // waits for what it is writing
  return ok_status();
}

Status Agent::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // who read the log may have died
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signals_ || !wake_) return errno_status("making the agent's signals", errno);
  CONVOY_RETURN_IF_ERROR(loop_->watch(signals_.get(), EPOLLIN, [this](uint32_t) {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (options_.launcher >= 0) continue;
      ending_ ? loop_->stop() : end();  // the second time: at once
    }
  }));
  return loop_->watch(wake_.get(), EPOLLIN, [this](uint32_t) { run_posted(); });
}

Status Agent::watch() {
  for (const int line : {options_.lifeline, options_.launcher}) {
    if (line < 0) continue;
    CONVOY_RETURN_IF_ERROR(loop_->watch(line, EPOLLIN | EPOLLHUP, [this, line](uint32_t) {
      loop_->unwatch(line);
      end();
    }));
  }
  return loop_->watch(listener_.get(), EPOLLIN, [this](uint32_t) { on_connect(); });
}

void Agent::on_connect() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  if (!is_own_peer(fd.get()) || sessions_.size() >= kSessionsMax || ending_) {
    CONVOY_LOG(Warn) << "a connection was refused";
    return;
  }
  loop_->cancel(idle_);
  Session& session = sessions_.emplace_back();
  session.fd = std::move(fd);
  const Status watched = loop_->watch(session.fd.get(), EPOLLIN | EPOLLRDHUP,
                                      [this, &session](uint32_t) { on_packet(session); });
  if (!watched.ok()) close(session);
}

void Agent::on_packet(Session& session) {
  Result<Packet> packet = receive_packet(session.fd.get());
  if (!packet.ok() || packet->ended) {
    close(session);
    return sweep();
  }
  if (packet->nothing) return;
  proto::Ask ask;
  // Nonsense, or a question before the last one was answered: such a client can't be served.
  if (!ask.ParseFromString(packet->bytes) || session.waiting) {
    CONVOY_LOG(Warn) << "a client that speaks nonsense is dropped";
    close(session);
    return sweep();
  }
  const Status status = handle(session, ask);
  if (!status.ok()) fail(session, status);
  sweep();
}

void Agent::close(Session& session) {
  if (session.gone) return;
  session.gone = true;
  if (session.has_deadline) loop_->cancel(session.deadline);
  loop_->unwatch(session.fd.get());
  session.waiting = nullptr;
  session.fd.reset();
  if (session.job != nullptr) session.job->lose(session.rank);
}

// Not within a session's own call.
void Agent::sweep() {
  sessions_.remove_if([](const Session& s) { return s.gone; });
  rest();
}

// Counts the time that nobody is here from now on.
void Agent::rest() {
  loop_->cancel(idle_);
  if (options_.idle_exit == Nanos(0) || !sessions_.empty() || ending_) return;
  idle_ = loop_->after(options_.idle_exit, [this] {
    if (is_writing() || (job_ != nullptr && job_->busy())) return rest();
    CONVOY_LOG(Info) << "nobody was here for " << format_duration(options_.idle_exit)
                     << ", and all is written: the agent ends";
    end();
  });
}

Status Agent::handle(Session& session, const proto::Ask& ask) {
  if (ask.has_hello()) return hello(session, ask.hello());
  if (ask.has_find()) return find(session);  // also for who only wants to read
  if (ask.has_address()) {
    CONVOY_RETURN_IF_ERROR(ensure_cluster());
    proto::Answer out;
    out.set_address(cluster_->address());
    answer(session, out);
    return ok_status();
  }
  if (ask.has_counters()) {
    proto::Answer out;
    out.mutable_counters();
    if (scrubber_ != nullptr) {
      for (const auto& [name, value] : scrubber_->counters()) {
        (*out.mutable_counters()->mutable_values())["scrub." + name] = value;
      }
    }
    answer(session, out);
    return ok_status();
  }
  if (ask.has_ping()) {
    answer(session, done());
    return ok_status();
  }
  if (session.job == nullptr) return {Code::kFailedPrecondition, "Hello comes first"};
  if (ask.has_reserve()) return reserve(session, ask.reserve());
  if (ask.has_acquire()) return acquire(session, ask.acquire());
  if (ask.has_staged()) return staged(session, ask.staged());
  if (ask.has_wait()) return wait(session, ask.wait());
  return {Code::kInvalidArgument, "a question that this agent does not know"};
}

Status Agent::hello(Session& session, const proto::Hello& hello) {
  may_die("ckpt.agent.hello.kill");
  if (hello.version() != kProtocolVersion) {
    return {Code::kFailedPrecondition,
            "the agent and the trainer are of different Convoys: start both from one installation"};
  }
  const Workers workers = workers_of(hello);
  if (workers.local_size < 1 || workers.world_size < workers.local_size ||
      hello.rank() >= workers.world_size) {
    return {Code::kInvalidArgument, "rank " + std::to_string(hello.rank()) + " of " +
                                        std::to_string(workers.world_size) + " with " +
                                        std::to_string(workers.local_size) + " on this node"};
  }
  if (workers.nodes == 1 && workers.world_size != workers.local_size) {
    return {Code::kFailedPrecondition,
            "this job has ranks on other machines: its ranks must say so (ClientOptions::node, "
            "nodes, and the coordinator that agent_address() of node 0's agent gives)"};
  }
  if (workers.nodes > 1 && (workers.node >= workers.nodes || workers.coordinator.empty() ||
                            workers.nodes > workers.world_size)) {
    return {Code::kInvalidArgument, "node " + std::to_string(workers.node) + " of " +
                                        std::to_string(workers.nodes) + " with coordinator '" +
                                        workers.coordinator + "'"};
  }
  CONVOY_ASSIGN_OR_RETURN(session.job, job_for(workers));
  session.rank = hello.rank();
  session.job->has_rank(session.rank);
  answer(session, done());
  return ok_status();
}

Result<std::shared_ptr<AgentJob>> Agent::job_for(const Workers& workers) {
  if (job_ != nullptr && job_->workers() == workers) return job_;
  if (job_ != nullptr && job_->workers().job == workers.job &&
      job_->workers().generation == workers.generation) {
    return Status(Code::kMismatch,
                  "the ranks of " + job_text(workers) + " asked for different checkpoint settings");
  }
  if (job_ != nullptr &&
      (job_->workers().job != workers.job || job_->workers().generation > workers.generation)) {
    return Status(Code::kFailedPrecondition,
                  "this agent serves " + job_text(job_->workers()) + ", not " + job_text(workers));
  }
  if (disk_ == nullptr || folder_ != workers.folder) {
    folder_ = workers.folder;
    disk_.reset();
    scrubber_.reset();
    if (!folder_.empty()) {
      DiskTierOptions disk;
      disk.folder = folder_;
      disk.claimant = {workers.job, workers.generation,
                       host_name() + ", agent " + std::to_string(::getpid())};
      // So that no two agents write the same: other nodes know the folder by it.
      if (workers.nodes > 1) disk.claimant.who += " " + random_hex().substr(0, 8);
      disk.keep_newest = workers.keep_newest;
      disk.keep_every = workers.keep_every;
      disk.bandwidth = workers.bandwidth;
      disk.incremental = workers.incremental;
      disk.take_over = workers.take_over;
      disk.compress = workers.compress;
      disk_ = std::make_shared<DiskTier>(std::move(disk));
      if (workers.node == 0) start_scrubber();  // the nodes have one folder
    }
  }
  // The store takes what the folder has got, so one node is enough.
  const bool opens_remote = workers.node == 0;
  if (opens_remote && (remote_ == nullptr || remote_place_ != workers.remote)) open_remote(workers);
  auto job = std::make_shared<AgentJob>(
      workers, disk_, opens_remote ? remote_ : nullptr,
      [this](std::function<void()> what) { post(std::move(what)); }, [this] { retry_waiting(); });
  if (workers.nodes > 1) {
    CONVOY_RETURN_IF_ERROR(ensure_cluster());
    CONVOY_RETURN_IF_ERROR(job->join(*cluster_));
  }
  // A generation that died before it had a whole step leaves that of its predecessor.
  if (job_ != nullptr && (job_->newest() || before_ == nullptr)) before_ = std::move(job_);
  job_ = std::move(job);
  return job_;
}

Status Agent::ensure_cluster() {
  if (cluster_ != nullptr) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(cluster_, load_cluster(options_.listen));
  return ok_status();
}

void Agent::open_remote(const Workers& workers) {
  remote_place_ = workers.remote;
  if (remote_ != nullptr) remote_->abandon();
  remote_.reset();
  if (remote_place_.empty()) return;
  RemoteTierOptions remote;
  remote.where = remote_place_;
  remote.claimant = {workers.job, workers.generation,
                     host_name() + ", agent " + std::to_string(::getpid())};
  remote.keep_newest = workers.remote_keep_newest;
  remote.keep_every = workers.remote_keep_every;
  remote.store.bandwidth = workers.remote_bandwidth;
  remote.compress = workers.remote_compress;
  remote.incremental = workers.incremental;
  remote.take_over = workers.take_over;
  remote_ = std::make_shared<RemoteTier>(std::move(remote));
}

void Agent::start_scrubber() {
  if (options_.scrub_every == Nanos(0)) return;
  ScrubberOptions options;
  options.folder = folder_;
  options.every = options_.scrub_every;
  options.bandwidth = options_.scrub_bandwidth;
  options.held = [this] { return held_copy(); };
  scrubber_ = std::make_unique<Scrubber>(std::move(options));
}

// From another thread; nothing if this one is ending.
std::optional<HeldCopy> Agent::held_copy() {
  constexpr auto kPatience = 1s;
  const auto found = std::make_shared<std::promise<std::optional<HeldCopy>>>();
  std::future<std::optional<HeldCopy>> answer = found->get_future();
  post([this, found] {
    std::optional<HeldCopy> held;
    for (const auto& job : {job_, before_}) {
      if (held || job == nullptr) continue;
      if (auto newest = job->newest()) held = {job->workers().generation, std::move(*newest)};
    }
    found->set_value(std::move(held));
  });
  if (answer.wait_for(kPatience) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

Status Agent::reserve(Session& session, const proto::Reserve& reserve) {
  CONVOY_ASSIGN_OR_RETURN(const std::shared_ptr<Arena> arena,
                          session.job->reserve(session.rank, reserve.bytes()));
  proto::Answer slots;
  slots.mutable_slots()->set_arena_bytes(arena->size());
  slots.mutable_slots()->set_slot_bytes(session.job->slot_bytes(session.rank));
  answer(session, slots, arena->fd());
  return ok_status();
}

Status Agent::acquire(Session& session, const proto::Acquire& acquire) {
  may_die("ckpt.agent.acquire.kill");
  if (ending_) return {Code::kUnavailable, "the agent is ending"};
  const auto policy = static_cast<Overtake>(std::min<uint32_t>(acquire.overtaking(), 2));
  const uint64_t step = acquire.step();
  const auto attempt = [this, &session, step, policy] {
    const Result<AgentJob::Slot> slot = session.job->acquire(session.rank, step, policy);
    if (!slot.ok()) {
      fail(session, slot.status());
      return true;
    }
    proto::Answer out;
    switch (slot->decision.verdict) {
      case SnapshotTable::Verdict::kBusy:
        return false;
      case SnapshotTable::Verdict::kSkipped:
        out.set_skipped(slot->decision.why);
        break;
      case SnapshotTable::Verdict::kGranted:
        out.mutable_slot()->set_offset(slot->offset);
    }
    answer(session, out);
    return true;
  };
  const Status late(Code::kDeadlineExceeded,
                    "no room for step " + std::to_string(step) +
                        ": two earlier saves are still being written. Save less often, or let the "
                        "policy skip");
  when_possible(session, acquire.timeout_ns(), attempt, late,
                [&session, step, late] { session.job->give_up(step, late); });
  return ok_status();
}

Status Agent::staged(Session& session, const proto::Staged& staged) {
  may_die("ckpt.agent.staged.kill");
  StagedSnapshot where;
  where.stream_bytes = staged.stream_bytes();
  where.part_offset = staged.part_offset();
  where.part_bytes = staged.part_bytes();
  std::map<std::string, std::string> notes(staged.notes().begin(), staged.notes().end());
  CONVOY_RETURN_IF_ERROR(session.job->stage(session.rank, staged.step(), where, std::move(notes)));
  may_die("ckpt.agent.answer.kill");
  answer(session, done());
  if (session.job == job_ && job_->newest()) before_.reset();
  return ok_status();
}

Status Agent::wait(Session& session, const proto::Wait& wait) {
  may_die("ckpt.agent.wait.kill");
  if (wait.tier() >= kTiers) return {Code::kInvalidArgument, "there is no such tier"};
  const auto tier = static_cast<Tier>(wait.tier());
  const uint64_t step = wait.step();
  const auto attempt = [this, &session, step, tier] {
    const Result<bool> reached = session.job->reached(session.rank, step, tier);
    if (reached.ok() && !reached.value()) return false;
    reached.ok() ? answer(session, done()) : fail(session, reached.status());
    return true;
  };
  when_possible(session, wait.timeout_ns(), attempt,
                {Code::kDeadlineExceeded, "step " + std::to_string(step) + " is not " +
                                              std::string(tier_name(tier)) + " yet"});
  return ok_status();
}

Status Agent::find(Session& session) {
  std::optional<AgentJob::Found> found;
  if (job_ != nullptr) found = job_->newest();
  if (!found && before_ != nullptr) found = before_->newest();
  proto::Answer out;
  proto::Found& text = *out.mutable_found();
  text.set_any(found.has_value());
  if (found) {
    text.set_step(found->step);
    text.set_world_size(found->world_size);
    text.set_held(static_cast<uint32_t>(found->ranks.size()));
  }
  answer(session, out);
  if (!found) return ok_status();
  for (const auto& [rank, where] : found->ranks) {
    proto::Answer held;
    proto::HeldSnapshot& snapshot = *held.mutable_snapshot();
    snapshot.set_rank(rank);
    snapshot.set_arena_bytes(where.arena->size());
    snapshot.set_offset(where.offset);
    snapshot.set_stream_bytes(where.stream_bytes);
    snapshot.set_part_offset(where.part_offset);
    snapshot.set_part_bytes(where.part_bytes);
    answer(session, held, where.arena->fd());
  }
  return ok_status();
}

// The socket does not block: a client that doesn't read its answers is dropped.
void Agent::answer(Session& session, const proto::Answer& answer, int fd) {
  if (session.gone) return;
  const Status sent = send_packet(session.fd.get(), answer.SerializeAsString(), fd);
  if (!sent.ok()) close(session);
}

void Agent::fail(Session& session, const Status& status) {
  proto::Answer out;
  out.mutable_failure()->set_code(static_cast<uint32_t>(status.code()));
  out.mutable_failure()->set_text(status.message());
  answer(session, out);
}

void Agent::when_possible(Session& session, uint64_t timeout_ns, std::function<bool()> attempt,
                          Status late, std::function<void()> gave_up) {
  if (attempt()) return;
  session.waiting = std::move(attempt);
  session.has_deadline = true;
  session.deadline = loop_->after(
      Nanos(timeout_ns), [this, &session, late = std::move(late), gave_up = std::move(gave_up)] {
        session.waiting = nullptr;
        session.has_deadline = false;
        if (gave_up) gave_up();
        fail(session, late);
      });
}

// A session's answer may change what others wait for, so once more as long as one got through.
void Agent::retry_waiting() {
  if (retrying_) return;
  retrying_ = true;
  post([this] {
    retrying_ = false;
    for (Session& session : sessions_) {
      if (session.gone || !session.waiting) continue;
      const auto attempt = std::move(session.waiting);
      session.waiting = nullptr;
      if (!attempt()) {
        session.waiting = attempt;
        continue;
      }
      if (session.has_deadline) loop_->cancel(session.deadline);
      session.has_deadline = false;
    }
    sweep();
  });
}

void Agent::post(std::function<void()> what) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(what));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Agent::run_posted() {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
  std::vector<std::function<void()>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(posted_);
  }
  for (const auto& what : all) what();
}

void Agent::end() {
  if (ending_) return;
  ending_ = true;
  // What was to stay in memory has to go to the disk now.
  if (job_ != nullptr && !job_->flush() && before_ != nullptr) before_->flush();
  drain();
}

// Whether a step is on its way to some tier.
bool Agent::is_writing() const {
  const bool between = (job_ != nullptr && job_->between_tiers()) ||
                       (before_ != nullptr && before_->between_tiers());
  return between || (disk_ != nullptr && disk_->jobs() > 0) ||
         (remote_ != nullptr && remote_->progress().jobs > 0);
}

void Agent::drain() {
  DiskTier::Progress progress;
  if (disk_ != nullptr) progress = disk_->progress();
  // The folder first; then the store has the rest of the time.
  if (progress.jobs == 0 && remote_ != nullptr && is_writing()) {
    const RemoteTier::Progress remote = remote_->progress();
    progress = {std::max<size_t>(1, remote.jobs), remote.step, remote.done, remote.total, {}};
  }
  const auto number = [](uint64_t value) { return " " + std::to_string(value); };
  if (progress.jobs > 0) {
    tell_launcher("writing" + number(progress.step) + number(progress.done) +
                  number(progress.total) + number(progress.jobs - 1));
    loop_->after(kDrainEvery, [this] { drain(); });
    return;
  }
  // A step that waits for other nodes; it has a deadline.
  if (job_ != nullptr && job_->busy()) {
    loop_->after(kDrainEvery, [this] { drain(); });
    return;
  }
  if (!progress.failed.ok()) {
    tell_launcher("lost" + number(progress.step) + " " + progress.failed.message());
  } else if (disk_ == nullptr && remote_ != nullptr && !remote_->progress().status.ok()) {
    const RemoteTier::Progress remote = remote_->progress();
    tell_launcher("lost" + number(remote.step) + " " + remote.status.message());
  }
  loop_->stop();
}

void Agent::tell_launcher(const std::string& text) {
  constexpr size_t kTextMax = 2000;
  if (options_.launcher < 0) return;
  [[maybe_unused]] const auto told = ::send(
      options_.launcher, text.data(), std::min(text.size(), kTextMax), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

Status run_agent(const AgentOptions& options) {
  set_log_identity("agent");
  return Agent(options).run();
}

}  // namespace convoy::ckpt
