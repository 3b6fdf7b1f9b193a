// The tracer as the launcher's child. What it does: src/cli/trace_serve.cc, trace_collect.cc.
#include "src/launch/tracer.h"

#include "src/launch/report.h"
#include <convoy/base/clock.h>
#include <convoy/base/units.h>

#include <nlohmann/json.hpp>

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace convoy::launch {
namespace {

namespace fs = std::filesystem;

// The report of a large job takes its time; beyond this it is stuck.
constexpr Nanos kFinishTimeout = std::chrono::minutes(2);
constexpr Nanos kReadyTimeout = std::chrono::seconds(3);
constexpr Nanos kReadTimeout = std::chrono::milliseconds(200);
constexpr Nanos kToldAfter = std::chrono::seconds(3);
constexpr int kTickMs = 100;
constexpr int kKillPatienceMs = 5000;
constexpr std::string_view kVerdict = "{\"verdict\":";  // for the launcher, not for people
constexpr std::string_view kComplains = "convoy: ";     // how `convoy` begins to say why it fails

// Where nothing is yet: "run", or "run-2" beside an earlier one's.
std::string free_name(const fs::path& folder) {
  std::string name = "run";
  for (int i = 2; fs::exists(folder / (name + ".trace")); ++i) name = "run-" + std::to_string(i);
  return name;
}

Status add_serve(const Plan& plan, uint16_t port, std::vector<std::string>* words) {
  const fs::path folder = plan.options.tracing->folder.empty()
                              ? fs::path(plan.run_dir) / "trace"
                              : fs::path(plan.options.tracing->folder);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return {Code::kUnavailable, "the folder " + folder.string() + ": " + error.message()};
  const std::string name = free_name(folder);
  words->insert(words->end(), {"serve", "--port", std::to_string(port), "--page", "0", "--run-file",
                               folder / (name + ".trace"), "--report",
                               folder / ("report" + name.substr(3) + ".html")});
  if (plan.options.nodes == 1) words->insert(words->end(), {"--host", "127.0.0.1"});
  return ok_status();
}

// Behind `convoy`; `line`: the descriptor on which it hears.
Result<std::vector<std::string>> words_of(const Plan& plan, int line) {
  const LaunchOptions& o = plan.options;
  uint16_t port = o.tracing->port;
  if (port == 0 && o.nodes > 1) {
    port = neighbour_port(plan.port, 1);
  }
  std::vector<std::string> words{"trace"};
  if (!o.tracing->aggregator.empty()) {
    words.insert(words.end(), {"collect", "--to", o.tracing->aggregator});
  } else if (o.node_rank > 0) {
    words.insert(words.end(), {"collect", "--to", o.master_addr + ":" + std::to_string(port)});
  } else {
    CONVOY_RETURN_IF_ERROR(add_serve(plan, port, &words));
  }
  words.insert(words.end(), {"--launcher", std::to_string(line), "--world-size",
                             std::to_string(o.nodes * o.ranks)});
  add_words(o.tracing->protection, &words);
  if (!o.mesh.empty()) words.insert(words.end(), {"--mesh", o.mesh});
  // The first machine's id counts; another machine that made up its own says none.
  if (plan.has_common_id || words[1] == "serve") {
    words.insert(words.end(), {"--job", plan.job_id});
  }
  return words;
}

// A line of src/cli/trace_consumers.cc.
std::optional<resilience::proto::Verdict> verdict_of(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  resilience::proto::Verdict verdict;
  const std::string kind = json.value("verdict", "");
  verdict.set_kind(kind == "hang"       ? resilience::proto::Verdict::HANG
                   : kind == "mismatch" ? resilience::proto::Verdict::MISMATCH
                   : kind == "slow"     ? resilience::proto::Verdict::SLOW
                                        : resilience::proto::Verdict::NOTHING);
  for (const auto& rank : json.value("ranks", nlohmann::json::array())) {
    if (rank.is_number_integer()) verdict.add_ranks(rank.get<int>());
  }
  verdict.set_text(json.value("text", ""));
  verdict.set_age_s(json.value("age_s", 0.0));
  verdict.set_cost(json.value("cost", 0.0));
  return verdict;
}

}  // namespace

std::unique_ptr<Tracer> Tracer::start(const Plan& plan, EventLoop& loop, Terminal& terminal,
                                      Found found) {
  std::unique_ptr<Tracer> tracer(new Tracer(loop, terminal, std::move(found)));
  const Status status = tracer->spawn_it(plan);
  if (status.ok()) {
    tracer->await_ready();
    return tracer;
  }
  terminal.say("convoy: the job is not traced: " + status.message());
  return nullptr;
}

Tracer::~Tracer() {
  if (child_) loop_.unwatch(child_->pidfd.get());
}

Status Tracer::spawn_it(const Plan& plan) {
  const LaunchOptions& o = plan.options;
  CONVOY_ASSIGN_OR_RETURN(
      log_, RankLog::open(plan.run_dir + "/logs/trace_" + std::to_string(o.node_rank) + ".log"));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status("making a pipe", errno);
  const UniqueFd theirs(ends[0]);
  line_.reset(ends[1]);
  ::fcntl(line_.get(), F_SETFL, O_NONBLOCK);
  CONVOY_ASSIGN_OR_RETURN(std::vector<std::string> words, words_of(plan, theirs.get()));
  words.insert(words.begin(), o.tracing->program);
  SpawnOptions how;
  how.kept = {theirs.get()};
  std::vector<std::string> environment = plan.inherited;
  environment.emplace_back("GRPC_VERBOSITY=NONE");  // unless the caller has set it
  CONVOY_ASSIGN_OR_RETURN(child_, spawn(o.tracing->program, words, environment, how));
  lines_.emplace(loop_, *child_,
                 [this](std::string_view line, bool is_error) { take(line, is_error); });
  CONVOY_RETURN_IF_ERROR(
      loop_.watch(child_->pidfd.get(), EPOLLIN, [this](uint32_t) { on_exit(); }));
  return lines_->watch();
}

void Tracer::await_ready() {
  const Deadline deadline = Deadline::after(kReadyTimeout);
  std::array<pollfd, 2> fds{pollfd{child_->out.get(), POLLIN, 0},
                            pollfd{child_->pidfd.get(), POLLIN, 0}};
  while (!is_ready_ && !deadline.passed()) {
    ::poll(fds.data(), fds.size(), kTickMs);
    if (fds[1].revents != 0) return on_exit();
    lines_->read();
  }
}

void Tracer::ended(pid_t rank, int wait_status) {
  const Nanos now = Clock::system().now().time_since_epoch();
  tell("ended " + std::to_string(rank) + " " + std::to_string(wait_status) + " " +
       std::to_string(now.count()));
}

void Tracer::job_is_stopped() {
  tell("stopped");
  // It watches the ranks itself: should it see their ends before it reads this, they are crashes.
  const Deadline deadline = Deadline::after(kReadTimeout);
  for (int left = 1; line_ && left > 0 && !deadline.passed();) {
    if (::ioctl(line_.get(), FIONREAD, &left) != 0 || left == 0) break;
    Clock::system().sleep_for(std::chrono::milliseconds(1));
  }
  job_has_ended();
}

// One that does not read misses something; the launcher does not wait for it. Of one that has died
// on_exit() tells: the line stays ours to close, since its end is what asks the tracer to end.
void Tracer::tell(const std::string& line) {
  if (!line_) return;
  const std::string text = line + "\n";
  [[maybe_unused]] const ssize_t written = ::write(line_.get(), text.data(), text.size());
}

void Tracer::take(std::string_view line, bool is_error) {
  log_->add(line);
  log_->flush();
  if (is_error && line.starts_with(kComplains)) {
    complaint_ = line.substr(kComplains.size());
    return;
  }
  if (!is_error && line.starts_with(kVerdict)) {
    if (const auto verdict = verdict_of(line)) found_(*verdict);
    return;
  }
  is_ready_ = is_ready_ || !is_error;
  terminal_.add(kNoRank, "[trace] " + std::string(line), true);
  terminal_.flush();
}

void Tracer::on_exit() {
  int wait_status = 0;
  if (::waitpid(child_->pid, &wait_status, WNOHANG) != child_->pid) return;
  RankExit exit;
  exit.wait_status = wait_status;
  loop_.unwatch(child_->pidfd.get());
  lines_->finish();
  const bool was_asked = !line_;
  lines_.reset();
  child_.reset();
  line_.reset();
  if (was_asked && is_success(exit)) return;
  const std::string what = was_asked   ? "the trace is not whole: "
                           : is_ready_ ? "the job is not traced any more: "
                                       : "the job is not traced: ";
  terminal_.say("convoy: " + what +
                (complaint_.empty() ? "its process ended, " + how(exit) : complaint_));
}

void Tracer::finish(const std::function<bool()>& gives_up) {
  if (!child_) return;
  job_has_ended();
  const TimePoint began = Clock::system().now();
  bool is_told = false;
  pollfd end{child_->pidfd.get(), POLLIN, 0};
  while (::poll(&end, 1, kTickMs) <= 0) {
    lines_->read();
    const Nanos waited = Clock::system().now() - began;
    if (!is_told && waited > kToldAfter) {
      terminal_.say("convoy: the trace's report is being written; Ctrl-C gives it up.");
      is_told = true;
    }
    if (!gives_up() && waited < kFinishTimeout) continue;
    complaint_ = "given up; `convoy trace report` makes a report of what is in its file";
    ::kill(child_->pid, SIGKILL);
    ::poll(&end, 1, kKillPatienceMs);
    break;
  }
  on_exit();
}

}  // namespace convoy::launch
