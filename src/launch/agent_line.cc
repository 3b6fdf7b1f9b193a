// Waiting for an agent's end, in whichever process is left to do so.
#include "src/launch/agent_line.h"

#include "src/launch/process.h"
#include <convoy/base/process.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <new>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr int kTickMs = 100;
// A killed process whose disk does not answer stays in the kernel; nobody can end it.
constexpr int kKillPatienceMs = 5000;
constexpr size_t kPacketBytesMax = 4096;

bool take_number(std::string_view* text, uint64_t* out) {
  while (text->starts_with(' ')) text->remove_prefix(1);
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), *out);
  if (error != std::errc()) return false;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return true;
}

// True: there was a packet that tells something new.
bool receive(AgentLine& line, DrainNews* news) {
  bool is_new = false;
  std::array<char, kPacketBytesMax> packet;
  for (;;) {
    const ssize_t got = ::recv(line.ours.get(), packet.data(), packet.size(), MSG_DONTWAIT);
    if (got <= 0) return is_new;
    const std::string_view text(packet.data(), static_cast<size_t>(got));
    line.owed.feed(text);
    line.tiers.feed(text);
    is_new = news->feed(text) || is_new;
  }
}

std::string unfinished(const DrainNews& news) {
  return news.what().empty() ? "what was saved last" : news.what();
}

Status outcome(const DrainNews& news, int wait_status) {
  if (!news.lost().empty()) return {Code::kDataLoss, news.lost()};
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) return ok_status();
  return {Code::kUnavailable, "the agent ended (" + how_it_ended(wait_status) +
                                  ") before this was written: " + unfinished(news) + "."};
}

}  // namespace

Result<AgentLine> make_agent_line(Nanos timeout) {
  AgentLine line;
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return errno_status("making the agent's line", errno);
  }
  line.ours.reset(ends[0]);
  line.theirs.reset(ends[1]);
  void* shared =
      ::mmap(nullptr, sizeof(*line.pid), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return errno_status("making the agent's line", errno);
  line.pid = new (shared) std::atomic<pid_t>(0);
  line.timeout = timeout;
  return line;
}

void hear(AgentLine& line) {
  DrainNews unused;
  receive(line, &unused);
}

void OwedSteps::feed(std::string_view packet) {
  constexpr std::string_view kOwes = "owes ";
  if (!packet.starts_with(kOwes)) return;
  std::string_view rest = packet.substr(kOwes.size());
  uint64_t step = 0;
  if (take_number(&rest, &step)) {
    owed_ = step;
    return;
  }
  if (owed_ && lost_ && *owed_ >= *lost_) lost_.reset();
  owed_.reset();
}

void TierSteps::feed(std::string_view packet) {
  constexpr std::string_view kTiers = "tiers";
  if (!packet.starts_with(kTiers)) return;
  std::string_view rest = packet.substr(kTiers.size());
  for (int64_t& step : steps_) {
    uint64_t number = 0;
    step = take_number(&rest, &number) ? static_cast<int64_t>(number) : -1;
    if (rest.starts_with('-')) rest.remove_prefix(1);
  }
}

void OwedSteps::agent_died() {
  if (owed_) lost_ = std::max(lost_.value_or(0), *owed_);
  owed_.reset();
}

bool DrainNews::feed(std::string_view packet) {
  const DrainNews before = *this;
  const size_t space = packet.find(' ');
  std::string_view rest = packet.substr(space == std::string_view::npos ? packet.size() : space);
  if (packet.starts_with("writing ")) {
    known_ = take_number(&rest, &step_) && take_number(&rest, &done_) &&
             take_number(&rest, &total_) && take_number(&rest, &more_);
  } else if (packet.starts_with("lost ") && take_number(&rest, &step_)) {
    lost_ = "checkpoint step " + std::to_string(step_) + " is not on the disk:" + std::string(rest);
  }
  return step_ != before.step_ || done_ != before.done_ || more_ != before.more_ ||
         lost_ != before.lost_;
}

std::string DrainNews::what() const {
  if (!known_) return "";
  std::string text = "checkpoint step " + std::to_string(step_);
  if (total_ > 0) text += ", " + format_bytes(done_) + " of " + format_bytes(total_);
  if (more_ > 0) text += ", and " + std::to_string(more_) + " more";
  return text;
}

double DrainNews::part() const {
  return total_ == 0 ? 0 : static_cast<double>(done_) / static_cast<double>(total_);
}

Status drain_agent(AgentLine& line, const DrainTick& tick) {
  const pid_t pid = line.pid->load();
  if (pid == 0) return ok_status();
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  [[maybe_unused]] const auto told = ::send(line.ours.get(), "end", 3, MSG_DONTWAIT | MSG_NOSIGNAL);
  ::kill(pid, SIGCONT);  // a stopped one would not see it
  DrainNews news;
  TimePoint moved = Clock::system().now();
  Status given_up;
  std::array<pollfd, 2> both{pollfd{line.ours.get(), POLLIN, 0}, pollfd{pidfd.get(), POLLIN, 0}};
  for (;;) {
    ::poll(both.data(), both.size(), kTickMs);
    if (receive(line, &news)) moved = Clock::system().now();
    if (both[1].revents != 0 || !pidfd) break;
    if (tick(news)) {
      given_up = {Code::kAborted, "given up before this was written: " + unfinished(news) + "."};
    } else if (Clock::system().now() - moved > line.timeout) {
      given_up = {Code::kDeadlineExceeded, "nothing was written for " +
                                               format_duration(line.timeout) +
                                               ", so this is given up: " + unfinished(news) + "."};
    }
    if (given_up.ok()) continue;
    ::kill(pid, SIGKILL);
    ::poll(&both[1], 1, kKillPatienceMs);
    break;
  }
  int wait_status = 0;
  if (::waitpid(pid, &wait_status, WNOHANG) == pid) line.pid->store(0);
  return given_up.ok() ? outcome(news, wait_status) : given_up;
}

}  // namespace convoy::launch
