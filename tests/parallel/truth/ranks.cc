// Processes, port and store of a test with ranks.
#include "tests/parallel/truth/ranks.h"

#include <convoy/base/check.h>
#include <convoy/base/log.h>

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <netinet/in.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace convoy::truth {
namespace {

// A listening socket on a port of the system's choice, so that no two tests meet.
int listen_anywhere(uint16_t* port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  CONVOY_CHECK(fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  CONVOY_CHECK(::listen(fd, 128) == 0);
  CONVOY_CHECK(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  *port = ntohs(address.sin_port);
  return fd;
}

int run_rank(int rank, int ranks, int listener, uint16_t port, const Body& body) {
  set_log_identity("rank " + std::to_string(rank));
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = rank == 0;
  options.numWorkers = static_cast<size_t>(ranks);
  if (rank == 0) {
    options.masterListenFd = listener;
  } else {
    ::close(listener);
  }
  try {
    const auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
    const bool good = body(rank, store);
    // The server must outlive the others' last question.
    store->barrier("end", ranks, std::chrono::seconds(60));
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    return 2;
  }
}

}  // namespace

int run_ranks(int ranks, const Body& body) {
  uint16_t port = 0;
  const int listener = listen_anywhere(&port);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = ::fork();
    CONVOY_CHECK(child >= 0, "fork failed");
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int code = run_rank(rank, ranks, listener, port, body);
      std::fflush(nullptr);
      ::_exit(code);
    }
    children.push_back(child);
  }
  ::close(listener);
  int result = 0;
  for (int left = ranks; left > 0; --left) {
    int status = 0;
    ::wait(&status);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (WIFSIGNALED(status) && result == 0)
      std::fprintf(stderr, "a rank died by signal %d\n", WTERMSIG(status));
    // A rank that only found something wrong ends with the others; one that broke down ends them.
    if (!(WIFEXITED(status) && WEXITSTATUS(status) == 1)) {
      for (const pid_t child : children) ::kill(child, SIGKILL);
    }
    result = 1;
  }
  return result;
}

}  // namespace convoy::truth
