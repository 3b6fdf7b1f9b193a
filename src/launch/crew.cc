// Packets between workers and the supervisor, and what only this machine can see: vitals.
#include "src/launch/crew.h"

#include "src/launch/plan.h"
#include "src/resilience/protocol/protocol.h"
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/base/process.h>
#include <convoy/base/socket.h>
#include <convoy/launch/launcher.h>
#include <convoy/resilience/supervise.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

namespace proto = resilience::proto;

constexpr Nanos kVitalsPeriod = std::chrono::milliseconds(250);
// A supervisor that dies so soon is not started for ever.
constexpr Nanos kEarly = std::chrono::seconds(1);
constexpr int kEarlyDeathsMax = 5;
// One that says nothing for so long hangs, and is replaced.
constexpr int kEndMs = 500;  // it ends by itself when its line has
constexpr int kEndWithWebhookMs = 4000;
constexpr Nanos kSilence = std::chrono::milliseconds(2500);
// One on another machine that can't be reached for so long is gone, and its machine with it.
constexpr Nanos kLeaderLost = std::chrono::seconds(20);
constexpr Nanos kToldAfter = std::chrono::seconds(15);
constexpr int kExitLost = 69;  // as a rank's that can't reach the others

void do_not_block(int fd) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

const Vitals* map_vitals(int page) {
  struct stat about {};
  if (::fstat(page, &about) != 0 || about.st_size < static_cast<off_t>(sizeof(Vitals))) {
    return nullptr;
  }
  void* at = ::mmap(nullptr, sizeof(Vitals), PROT_READ, MAP_SHARED, page, 0);
  return at == MAP_FAILED ? nullptr : static_cast<const Vitals*>(at);
}

void unmap_vitals(const Vitals* page) {
  if (page != nullptr) ::munmap(const_cast<Vitals*>(page), sizeof(Vitals));
}

}  // namespace

Crew::Crew(Options options, Orders orders, EventLoop& loop, Terminal& terminal)
    : options_(std::move(options)),
      orders_(std::move(orders)),
      loop_(loop),
      terminal_(terminal),
      name_("convoy-crew-" + random_hex()),
      generation_(options_.generation) {}

Result<std::unique_ptr<Crew>> Crew::create(Options options, Orders orders, EventLoop& loop,
                                           Terminal& terminal) {
  std::unique_ptr<Crew> crew(new Crew(std::move(options), std::move(orders), loop, terminal));
  CONVOY_RETURN_IF_ERROR(crew->listen());
  return crew;
}

Crew::~Crew() {
  close();
  if (listener_) loop_.unwatch(listener_.get());
  while (!peers_.empty()) drop(peers_.begin()->first);
  for (const auto& [id, worker] : workers_) unmap_vitals(worker.vitals);
  std::error_code ignored;
  const std::string folder = options_.run_dir + "/control";  // of a job that runs
  if (is_leader()) std::filesystem::remove_all(folder, ignored);
  std::filesystem::remove(folder + socket_file(), ignored);
}

// Machines may share the run folder.
std::string Crew::socket_file() const {
  return is_first() ? "/socket" : "/socket." + std::to_string(options_.node);
}

Status Crew::listen() {
  CONVOY_ASSIGN_OR_RETURN(listener_, listen_packets(name_));
  do_not_block(listener_.get());
  std::error_code error;
  const std::filesystem::path folder = options_.run_dir + "/control";
  if (is_leader()) std::filesystem::remove_all(folder, error);  // of an earlier run
  std::filesystem::create_directories(folder, error);
  if (error) return errno_status("making " + folder.string(), error.value());
  std::ofstream(folder.string() + socket_file()) << name_ << "\n";  // for `convoy status`
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { on_connect(); });
}

// --- workers ---

void Crew::on_connect() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket || !is_own_peer(socket.get())) return;
  const int fd = socket.get();
  peers_[fd].socket = std::move(socket);
  const Status watched = loop_.watch(fd, EPOLLIN, [this, fd](uint32_t) { on_packet(fd); });
  if (!watched.ok()) peers_.erase(fd);
}

void Crew::drop(int socket) {
  loop_.unwatch(socket);
  const Peer& peer = peers_[socket];
  if (const auto at = workers_.find(peer.worker); at != workers_.end()) at->second.socket = -1;
  requests_.erase(peer.request);
  peers_.erase(socket);
}

void Crew::on_packet(int socket) {
  const auto packet = receive_packet(socket);
  if (packet.ok() && packet->nothing) return;
  if (!packet.ok() || packet->ended) return drop(socket);
  Peer& peer = peers_[socket];
  proto::FromWorker message;
  if (!message.ParseFromString(packet->bytes) ||
      message.what_case() == proto::FromWorker::WHAT_NOT_SET) {
    CONVOY_LOG(Warn) << "who speaks nonsense at the control socket was dropped";
    return drop(socket);
  }
  proto::FromNode out;
  if (message.has_request()) {
    peer.request = next_request_++;
    requests_[peer.request] = socket;
    *out.mutable_request() = message.request();
    out.mutable_request()->set_id(peer.request);
    if (!line_ || !is_led_) return drop(socket);  // nobody is led
    return to_supervisor(out);
  }
  if (message.has_hello()) return hello(peer, message.hello(), packet->fd);
  if (peer.worker == 0) return drop(socket);
  // Nobody will lead it on, so it need not wait for that.
  if (message.has_trouble() && options_.nodes > 1 && !is_whole_) return drop(socket);
  out.mutable_said()->set_worker(peer.worker);
  *out.mutable_said()->mutable_what() = std::move(message);
  to_supervisor(out);
}

void Crew::hello(Peer& peer, const proto::Hello& hello, const UniqueFd& page) {
  const auto at = workers_.find(hello.worker());
  if (at == workers_.end() || hello.version() != resilience::kProtocolVersion) {
    CONVOY_LOG(Warn) << "worker " << hello.worker() << " is not of this job, or of another Convoy";
    return drop(peer.socket.get());
  }
  peer.worker = hello.worker();
  Worker& worker = at->second;
  worker.socket = peer.socket.get();
  worker.has_joined = true;
  unmap_vitals(worker.vitals);
  worker.vitals = map_vitals(page.get());
  if (!line_) {
    const Status started = start_supervisor();  // which is told of all workers
    if (!started.ok()) {
      terminal_.say("convoy: the supervisor can't be started, so no fault is survived: " +
                    started.message());
    }
    return;
  }
  proto::FromNode out;
  out.mutable_said()->set_worker(peer.worker);
  *out.mutable_said()->mutable_what()->mutable_hello() = hello;
  to_supervisor(out);
}

bool Crew::has_joined(uint64_t worker) const {
  const auto at = workers_.find(worker);
  return at != workers_.end() && at->second.has_joined;
}

void Crew::started(uint64_t worker, int rank, pid_t pid) {
  workers_[worker] = {.rank = rank, .pid = pid};
  if (!line_) return;
  proto::FromNode out;
  proto::Worker& w = *out.mutable_started()->mutable_worker();
  w.set_worker(worker);
  w.set_rank(rank);
  w.set_pid(pid);
  out.mutable_started()->set_generation(generation_);
  to_supervisor(out);
}

void Crew::ended(uint64_t worker, int wait_status) {
  const auto at = workers_.find(worker);
  if (at == workers_.end()) return;
  const int rank = at->second.rank;
  const bool is_done = rank >= 0 && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
  if (is_done) done_.insert(rank);
  unmap_vitals(at->second.vitals);
  workers_.erase(at);
  proto::FromNode out;
  out.mutable_ended()->set_worker(worker);
  out.mutable_ended()->set_wait_status(wait_status);
  to_supervisor(out);
}

void Crew::on_timer() {
  timer_ = loop_.after(kVitalsPeriod, [this] { on_timer(); });
  tell_vitals();
  if (!is_leader()) look_for_leader();
  if (line_ && Clock::system().now() - heard_at_ > kSilence) end_supervisor("says nothing");
}

void Crew::tell_vitals() {
  proto::FromNode out;
  for (const auto& [id, worker] : workers_) {
    proto::Vital& v = *out.mutable_vitals()->add_of();
    v.set_worker(id);
    v.set_halted(is_halted(worker.pid));
    if (worker.vitals == nullptr) continue;  // it starts; whoever is halted then never comes
    v.set_step(worker.vitals->step.load(std::memory_order_relaxed));
    v.set_step_ns(worker.vitals->step_ns.load(std::memory_order_relaxed));
    v.set_waiting(worker.vitals->waiting.load(std::memory_order_relaxed) > 0);
    v.set_training(worker.vitals->training.load(std::memory_order_relaxed) != 0);
    v.set_saving(worker.vitals->saving.load(std::memory_order_relaxed) > 0);
    v.set_takes_any_mesh(worker.vitals->takes_any_mesh.load(std::memory_order_relaxed) != 0);
  }
  for (const int64_t step : options_.tiers()) out.mutable_vitals()->add_tiers(step);
  if (options_.nodes > 1) out.mutable_vitals();  // that this machine lives is news, too
  if (out.has_vitals()) to_supervisor(out);
}

void Crew::look_for_leader() {
  if (is_led_) return;
  const Nanos away = Clock::system().now() - away_at_;
  const std::string where = is_contested() ? "the machine that leads"
                                           : options_.leader + ":" + std::to_string(options_.port);
  if (!is_whole_ && away > kToldAfter && !absence_is_told_) {
    absence_is_told_ = true;
    terminal_.say("convoy: the job's supervisor at " + where + " is not reached (" + away_ +
                  "); until it is, a death ends the job.");
  }
  // With etcd another one will lead, if only once etcd itself is there again.
  if (!is_whole_ || away < kLeaderLost || is_contested()) return;
  const bool is_done = std::all_of(workers_.begin(), workers_.end(),
                                   [](const auto& w) { return w.second.rank < 0; }) &&
                       !done_.empty();
  orders_.end(is_done ? 0 : kExitLost, -1,
              "the first machine, which leads the job, is gone: its supervisor at " + where +
                  " was not reached for 20 s (" + away_ + ")");
}

// --- the supervisor ---

Status Crew::start_supervisor() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return errno_status("making the supervisor's line", errno);
  }
  UniqueFd ours(ends[0]), theirs(ends[1]);
  do_not_block(ours.get());
  SpawnOptions how;
  how.kept = {theirs.get()};
  std::vector<std::string> environment = options_.environment;
  // Its own address is that from which it reaches the first machine.
  if (is_contested()) environment.push_back("MASTER_ADDR=" + options_.leader);
  CONVOY_ASSIGN_OR_RETURN(
      child_, spawn(options_.program, supervisor_words(theirs.get()), environment, how));
  started_at_ = Clock::system().now();
  is_led_ = is_leader();
  if (!was_started_) away_at_ = started_at_;
  was_started_ = true;
  line_ = std::move(ours);
  heard_at_ = started_at_;
  CONVOY_RETURN_IF_ERROR(loop_.watch(line_.get(), EPOLLIN, [this](uint32_t) { on_order(); }));
  CONVOY_RETURN_IF_ERROR(
      loop_.watch(child_->pidfd.get(), EPOLLIN, [this](uint32_t) { on_supervisor_exit(); }));
  lines_.emplace(loop_, *child_, [this](std::string_view line, bool) {
    terminal_.add(kNoRank, line, true);
    terminal_.flush();
  });
  CONVOY_RETURN_IF_ERROR(lines_->watch());
  if (is_leader()) say_hello();  // else when the supervisor asks for it
  if (!timer_) on_timer();
  return ok_status();
}

std::vector<std::string> Crew::supervisor_words(int line) const {
  const Options& o = options_;
  std::vector<std::string> words{o.program, "supervisor", "--line", std::to_string(line)};
  if (!is_first() && !is_contested()) {
    words.insert(words.end(), {"--to", o.leader + ":" + std::to_string(o.port)});
    add_words(o.protection, &words);
    return words;
  }
  words.insert(words.end(), {"--job", o.job, "--run-dir", o.run_dir, "--ranks",
                             std::to_string(o.ranks * o.nodes), "--spares",
                             std::to_string(o.spares), "--min-dp", std::to_string(o.min_dp)});
  if (!o.mesh.empty()) words.insert(words.end(), {"--mesh", o.mesh});
  if (!o.webhook.empty()) words.insert(words.end(), {"--webhook", o.webhook});
  if (!o.metrics.empty()) words.insert(words.end(), {"--metrics", o.metrics});
  if (o.nodes == 1) return words;
  words.insert(words.end(),
               {"--nnodes", std::to_string(o.nodes), "--port", std::to_string(o.port)});
  if (o.has_common_id) words.emplace_back("--common-id");
  if (is_contested()) {
    words.insert(words.end(),
                 {"--etcd", o.etcd, "--node", std::to_string(o.node), "--launcher", name_});
  }
  add_words(o.protection, &words);
  return words;
}

void Crew::say_hello() {
  const Options& o = options_;
  proto::FromNode out;
  proto::NodeHello& hello = *out.mutable_hello();
  hello.set_version(resilience::kProtocolVersion);
  hello.set_node(static_cast<uint32_t>(o.node));
  hello.set_name(host_name());
  if (o.has_common_id) hello.set_job(o.job);
  hello.set_ranks(static_cast<uint32_t>(o.ranks));
  hello.set_mesh(o.mesh);
  hello.set_launcher(o.launcher);
  for (const int rank : done_) hello.add_done(rank);
  hello.set_address(o.address);
  hello.set_generation(generation_);
  for (const auto& [id, worker] : workers_) {
    proto::Worker& w = *hello.add_workers();
    w.set_worker(id);
    w.set_rank(worker.rank);
    w.set_has_joined(worker.has_joined);
    w.set_pid(worker.pid);
  }
  to_supervisor(out);
}

void Crew::on_supervisor_exit() {
  int wait_status = 0;
  if (::waitpid(child_->pid, &wait_status, WNOHANG) != child_->pid) return;
  loop_.unwatch(child_->pidfd.get());
  if (line_) loop_.unwatch(line_.get());
  line_.reset();
  lines_->finish();
  lines_.reset();
  child_.reset();
  if (closing_) return;
  const bool is_over =
      WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == resilience::kExitRoleOver;
  const bool is_early = Clock::system().now() - started_at_ < kEarly && !is_over;
  early_deaths_ = is_early ? early_deaths_ + 1 : 0;
  const std::string what = is_first() ? "the supervisor" : "the line to the supervisor";
  if (early_deaths_ >= kEarlyDeathsMax) {
    return orders_.end(kExitInternal, -1, what + " dies whenever it is started");
  }
  if (is_led_ && !is_leader()) away_at_ = Clock::system().now();
  is_led_ = false;
  if (!is_over) {
    terminal_.say("convoy: " + what + " died (" + how_it_ended(wait_status) +
                  ") and is started again; training goes on.");
  }
  const Status started = start_supervisor();
  if (!started.ok()) terminal_.say("convoy: it can't be started: " + started.message());
}

void Crew::leave(int code, const std::string& why) {
  proto::FromNode out;
  out.mutable_leaving()->set_code(code);
  out.mutable_leaving()->set_text(why);
  to_supervisor(out);
}

void Crew::verdict(const proto::Verdict& found) {
  proto::FromNode out;
  *out.mutable_verdict() = found;
  to_supervisor(out);
}

void Crew::let_go() {
  closing_ = true;
  check_.reset();
  if (timer_) loop_.cancel(*timer_);
  timer_.reset();
  if (line_) loop_.unwatch(line_.get());
  line_.reset();
}

void Crew::close() {
  let_go();
  if (!child_) return;
  loop_.unwatch(child_->pidfd.get());
  pollfd ended{child_->pidfd.get(), POLLIN, 0};
  if (::poll(&ended, 1, options_.webhook.empty() ? kEndMs : kEndWithWebhookMs) != 1)
    ::kill(child_->pid, SIGKILL);
  ::waitpid(child_->pid, nullptr, 0);
  lines_->finish();
  lines_.reset();
  child_.reset();
}

void Crew::to_supervisor(const proto::FromNode& message) {
  if (!line_) return;  // the next one is told who is there
  const Status sent = send_packet(line_.get(), message.SerializeAsString());
  if (!sent.ok()) end_supervisor("takes no messages: " + sent.message());
}

// The next one is told all that it needs to know.
void Crew::end_supervisor(const std::string& why) {
  CONVOY_LOG(Warn) << "the supervisor " << why << "; it is replaced";
  loop_.unwatch(line_.get());
  line_.reset();
  if (child_) ::kill(child_->pid, SIGKILL);
}

void Crew::on_order() {
  while (line_) {
    const auto packet = receive_packet(line_.get());
    if (!packet.ok() || packet->nothing || packet->ended) return;
    heard_at_ = Clock::system().now();
    proto::ToNode order;
    if (order.ParseFromString(packet->bytes)) carry_out(order);
  }
}

void Crew::forget_ranks() {
  for (auto& [id, worker] : workers_) worker.rank = -1;
  done_.clear();
  orders_.renumber();
}

void Crew::check_node() {
  if (check_ != nullptr) return;
  const auto tell = [this](bool is_fit, const std::string& text) {
    proto::FromNode message;
    message.mutable_checked()->set_is_fit(is_fit);
    message.mutable_checked()->set_text(text);
    to_supervisor(message);
  };
  auto started = NodeCheck::start(options_.program, options_.environment, options_.run_dir, loop_,
                                  [this, tell](bool is_fit, const std::string& text) {
                                    check_.reset();
                                    tell(is_fit, text);
                                  });
  if (!started.ok()) return tell(false, started.status().message());
  check_ = std::move(started).value();
}

void Crew::carry_out(const proto::ToNode& order) {
  switch (order.what_case()) {
    case proto::ToNode::kSpawn:
      generation_ = std::max(generation_, order.spawn().generation());
      return orders_.spawn(order.spawn().rank());
    case proto::ToNode::kKill:
      return orders_.kill(order.kill().worker());
    case proto::ToNode::kTell: {
      const auto worker = workers_.find(order.tell().worker());
      if (worker == workers_.end() || worker->second.socket < 0) return;
      if (order.tell().what().has_summons()) {
        generation_ = std::max(generation_, order.tell().what().summons().generation());
      }
      const Status told =
          send_packet(worker->second.socket, order.tell().what().SerializeAsString());
      if (!told.ok()) {
        CONVOY_LOG(Warn) << "worker " << worker->first << " can't be told: " << told.message();
      }
      return;
    }
    case proto::ToNode::kPlaces:
      if (order.places().is_resized()) forget_ranks();
      for (const proto::Worker& w : order.places().workers()) {
        if (const auto at = workers_.find(w.worker()); at != workers_.end()) {
          at->second.rank = w.rank();
        }
        done_.erase(w.rank());
        orders_.place(w.worker(), w.rank());
      }
      return;
    case proto::ToNode::kGreet:
      is_led_ = true;
      return say_hello();
    case proto::ToNode::kCheck:
      return check_node();
    case proto::ToNode::kWhole:
      is_whole_ = true;
      return;
    case proto::ToNode::kAway:
      if (is_led_) away_at_ = Clock::system().now();
      is_led_ = false;
      away_ = order.away();
      return;
    case proto::ToNode::kEnd:
      return orders_.end(order.end().code(), order.end().cause(), order.end().text());
    case proto::ToNode::kSay:
      return terminal_.say("convoy: " + order.say().text());
    case proto::ToNode::kAnswer: {
      const auto asks = requests_.find(order.answer().id());
      if (asks == requests_.end()) return;
      const Status told = send_packet(asks->second, order.answer().text());
      if (!told.ok()) {
        CONVOY_LOG(Debug) << told.message();
      }
      return;
    }
    default:
      return;
  }
}

}  // namespace convoy::launch
