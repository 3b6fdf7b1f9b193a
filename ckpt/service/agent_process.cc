// Starts `convoy agent --detach`, which returns when the agent listens. posix_spawn, since a
// trainer has threads, and much memory that a fork would have to map.
#include "ckpt/service/messages.pb.h"
#include <convoy/base/checksum.h>
#include <convoy/base/packet.h>
#include <convoy/ckpt/agent_process.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <span>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;

constexpr int kExitTaken = 69;  // of `convoy agent`: somebody has the name
constexpr Nanos kPause = std::chrono::milliseconds(100);

std::string agent_name(const std::string& job) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "convoy-agent-%u-%016llx", ::getuid(),
                static_cast<unsigned long long>(xxh3(std::as_bytes(std::span(job)))));
  return text.data();
}

fs::path own_library() {
  Dl_info self;
  if (::dladdr(reinterpret_cast<void*>(&ensure_agent), &self) == 0) return {};
  std::error_code error;
  return fs::canonical(self.dli_fname, error);
}

// Where `convoy` may be, best first.
std::vector<fs::path> likely_places() {
  std::error_code error;
  std::vector<fs::path> places{fs::read_symlink("/proc/self/exe", error).parent_path() / "convoy"};
  fs::path folder = own_library().parent_path();
  places.push_back(folder / "convoy");
  places.push_back(folder / "src/cli/convoy");  // a build folder
  // PREFIX/lib, PREFIX/lib/<machine>, a virtual environment's lib/python3/site-packages/convoy/lib.
  for (int i = 0; i < 5 && folder.has_relative_path(); ++i) {
    folder = folder.parent_path();
    places.push_back(folder / "bin/convoy");
  }
  const char* path = std::getenv("PATH");
  std::string_view folders = path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path;
  while (!folders.empty()) {
    const size_t colon = folders.find(':');
    if (colon != 0) places.push_back(fs::path(folders.substr(0, colon)) / "convoy");
    folders.remove_prefix(colon == std::string_view::npos ? folders.size() : colon + 1);
  }
  return places;
}

bool is_program(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

Result<std::string> find_convoy(const std::string& given) {
  if (!given.empty()) {
    if (is_program(given)) return given;
    return Status(Code::kNotFound, "CONVOY_BIN is '" + given +
                                       "', which is no executable file: it must be the program "
                                       "`convoy`, which keeps the checkpoints.");
  }
  std::string tried;
  for (const fs::path& place : likely_places()) {
    if (is_program(place)) return place.string();
    tried += "\n  " + place.string();
  }
  return Status(Code::kNotFound,
                "A save needs an agent, and the program `convoy` that is one is in none of these "
                "places:" +
                    tried +
                    "\nSet CONVOY_BIN to its path, or start this program with `convoy run`.");
}

// Whether an agent of this user listens there, and takes new clients.
Status ask_agent(const std::string& name) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd socket, connect_packets(name));
  proto::Ask ask;
  ask.set_ping(true);
  CONVOY_RETURN_IF_ERROR(send_packet(socket.get(), ask.SerializeAsString()));
  pollfd answer{socket.get(), POLLIN, 0};
  constexpr int kAnswerMs = 1000;
  if (::poll(&answer, 1, kAnswerMs) != 1) {
    return {Code::kUnavailable, "the agent @" + name + " does not answer"};
  }
  CONVOY_ASSIGN_OR_RETURN(const Packet packet, receive_packet(socket.get()));
  if (packet.ended) return {Code::kUnavailable, "the agent @" + name + " is ending"};
  return ok_status();
}

class SpawnSettings {
 public:
  // stdout goes to stderr, which is where people look; nothing else of ours stays open there.
  SpawnSettings() {
    ::posix_spawn_file_actions_init(&files_);
    ::posix_spawn_file_actions_addopen(&files_, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&files_, 2, 1);
    ::posix_spawn_file_actions_addclosefrom_np(&files_, 3);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_init(&attributes_);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&files_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
  int spawn(const std::vector<std::string>& words, pid_t* pid) const {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    return ::posix_spawn(pid, argv[0], &files_, &attributes_, argv.data(), environ);
  }

 private:
  posix_spawn_file_actions_t files_{};
  posix_spawnattr_t attributes_{};
};

// The exit code of `convoy agent --detach`.
Result<int> start_agent(const std::string& program, const std::string& name, Nanos idle_exit,
                        const Deadline& deadline) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(idle_exit).count();
  pid_t pid = -1;
  const int error = SpawnSettings().spawn(
      {program, "agent", "--name", name, "--detach", "--idle-exit", std::to_string(ms) + "ms"},
      &pid);
  if (error != 0) return errno_status("starting " + program, error);
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd ended{pidfd.get(), POLLIN, 0};
  while (pidfd && !deadline.passed()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.left());
    if (::poll(&ended, 1, static_cast<int>(left.count()) + 1) == 1) break;
  }
  if (deadline.passed()) ::kill(pid, SIGKILL);
  int status = 0;
  // A program that ignores SIGCHLD has nothing to wait for; then only the agent's answer counts.
  if (::waitpid(pid, &status, 0) != pid) return 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<std::string> ensure_agent(const AgentPlace& place) {
  if (place.agent == "none") {
    return Status(Code::kFailedPrecondition,
                  "a save needs the agent that `convoy run --no-agent` was told not to start");
  }
  const Deadline deadline = Deadline::after(place.timeout);
  const std::string name = place.agent.empty() ? agent_name(place.job) : place.agent;
  Status answer;
  do {
    answer = ask_agent(name);
    if (answer.ok()) return name;
    if (answer.code() == Code::kFailedPrecondition) return answer;  // another user's
    // One that ends keeps its name until what it has is written, and `convoy run` starts its own.
    if (place.agent.empty()) {
      CONVOY_ASSIGN_OR_RETURN(const std::string program, find_convoy(place.program));
      CONVOY_ASSIGN_OR_RETURN(const int code,
                              start_agent(program, name, place.idle_exit, deadline));
      if (code != 0 && code != kExitTaken) {
        return Status(Code::kUnavailable, "The agent that keeps checkpoints could not start: " +
                                              program + " ended with code " + std::to_string(code) +
                                              ". What it said is on stderr.");
      }
      answer = ask_agent(name);
      if (answer.ok()) return name;
    }
    Clock::system().sleep_for(kPause);
  } while (!deadline.passed());
  return Status(Code::kDeadlineExceeded, answer.message());
}

}  // namespace convoy::ckpt
