#pragma once

// Ranks as forked processes, for tests that kill them or give each a network namespace. The parent
// must have no threads when it forks. Each rank writes its result into a file of the scratch
// folder.
#include "src/comm/host/link_group.h"
#include "tests/comm/file_store.h"
#include "tests/exit_rank.h"
#include "tests/temp_folder.h"
#include <convoy/comm/host/group.h>
#include <convoy/rendezvous/store.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <signal.h>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace convoy::host {

struct LinkProcesses {
  int size = 2;
  int streams = 2;
  int ranks_per_host = 1;  // those of one (pretended) host are joined by unix sockets
  std::string address = "127.0.0.1";
  Nanos patience = std::chrono::seconds(5);
  std::function<void(int rank)> before;  // in the child, first of all: enter a namespace
  using Body = std::function<std::string(int rank, Group& group)>;

  explicit LinkProcesses(int ranks) : size(ranks), pids(ranks, -1) {}
  ~LinkProcesses() {
    for (int r = 0; r < size; ++r) kill(r);
  }
  LinkProcesses(const LinkProcesses&) = delete;
  LinkProcesses& operator=(const LinkProcesses&) = delete;

  void start(const Body& body) {
    for (int r = 0; r < size; ++r) {
      pids[r] = ::fork();
      if (pids[r] == 0) child(r, body);
    }
  }
  // The text that rank r's body returned; "died" when it did not come to that.
  std::string result(int r) {
    int status = 0;
    ::waitpid(pids[r], &status, 0);
    pids[r] = -1;
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
      return "exit code " + std::to_string(WEXITSTATUS(status));
    }
    std::ifstream in(file("result" + std::to_string(r)));
    if (!in) return "died";
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void kill(int r) {
    if (pids[r] <= 0) return;
    ::kill(pids[r], SIGKILL);
    ::waitpid(pids[r], nullptr, 0);
    pids[r] = -1;
  }
  // Signs between the test and its ranks.
  void mark(const std::string& name) const { std::ofstream(file(name)) << "1"; }
  bool wait_for(const std::string& name) const {
    for (int i = 0; i < 30'000 && !std::filesystem::exists(file(name)); ++i) {
      Clock::system().sleep_for(std::chrono::milliseconds(2));
    }
    return std::filesystem::exists(file(name));
  }

  std::vector<pid_t> pids;

 private:
  std::string file(const std::string& name) const { return folder / name; }
  [[noreturn]] void child(int rank, const Body& body) {
    if (before) before(rank);
    testing::FileStore store(folder.path());
    std::string text;
    {
      TcpEndpoint endpoint(address);
      GroupOptions options;
      options.name = "processes";
      options.patience = patience;
      options.join_timeout = std::chrono::seconds(60);
      std::vector<std::string> hosts;
      for (int r = 0; r < size; ++r) hosts.push_back("host" + std::to_string(r / ranks_per_host));
      auto group = make_link_group(nullptr, endpoint, store, rank, size, hosts, streams, options);
      text = group.ok() ? body(rank, **group) : group.status().to_string();
    }
    std::ofstream(file("draft" + std::to_string(rank))) << text;
    std::filesystem::rename(file("draft" + std::to_string(rank)),
                            file("result" + std::to_string(rank)));
    exit_rank(0);
  }
  TempFolder folder;
};

}  // namespace convoy::host
