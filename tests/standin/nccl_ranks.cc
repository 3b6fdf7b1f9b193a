#include "tests/standin/nccl_ranks.h"

#include "tests/exit_rank.h"
#include "tests/temp_folder.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <new>
#include <sstream>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kLimit = std::chrono::seconds(100);  // of a run; never reached when all is well

[[noreturn]] void be_rank(Board& board, int rank, int n, const std::string& outputs,
                          const std::function<void(Rank&)>& body, const Environment& environment) {
  const int fd =
      ::open((outputs + std::to_string(rank)).c_str(), O_CREAT | O_WRONLY | O_APPEND, 0644);
  ::dup2(fd, 2);
  ::setenv("CONVOY_STANDIN_GPUS", std::to_string(n).c_str(), 1);
  ::setenv("CONVOY_STANDIN_GPU_MEMORY", "64MiB", 1);
  ::setenv("CONVOY_STANDIN_NOTICE_S", "60", 1);
  ::setenv("CONVOY_STANDIN_DEADLINE_S", "90", 1);
  ::setenv("RANK", std::to_string(rank).c_str(), 1);
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  Rank me(board, rank, n, outputs);
  int devices = 0;  // on hardware (tests/gpu) fewer than ranks, perhaps
  CUDA(cudaGetDeviceCount(&devices));
  CUDA(cudaSetDevice(rank % std::max(devices, 1)));
  body(me);
  exit_rank(Rank::failures == 0 ? 0 : 1);
}

// The exit code, or -1000 when it had to be killed.
int code_of(pid_t pid, Clock::time_point limit) {
  int status = 0;
  while (::waitpid(pid, &status, WNOHANG) == 0) {
    if (Clock::now() > limit) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return -1000;
    }
    pause_ms(2);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

int Rank::failures = 0;

void Rank::expect(bool holds, const char* what, const char* file, int line) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: not so: %s (%s)\n", file, line, what, ncclGetLastError(nullptr));
}

bool Rank::has_said(const std::string& text, int of) const {
  std::ostringstream all;
  all << std::ifstream(outputs_ + std::to_string(of)).rdbuf();
  return all.str().find(text) != std::string::npos;
}

ncclUniqueId Rank::next_id() {
  const int number = ids_++;
  if (rank == 0) {
    OK(ncclGetUniqueId(&board_.ids[number]));
    board_.ids_made = number + 1;
  }
  EXPECT(becomes_true([&] { return board_.ids_made > number; }));
  return board_.ids[number];
}

ncclComm_t Rank::make(ncclConfig_t* config) {
  ncclComm_t comm = nullptr;
  OK(ncclCommInitRankConfig(&comm, n, next_id(), rank, config));
  return comm;
}

void Rank::meet() {
  const int target = ++meetings_ * n;
  ++board_.arrived;
  EXPECT(becomes_true([&] { return board_.arrived >= target; }));
}

void Rank::die(int who) {
  if (rank == who) {
    board_.dying = 1;
    ::kill(::getpid(), SIGKILL);
  }
  EXPECT(becomes_true([&] { return board_.dying == 1; }));
}

bool becomes_true(const std::function<bool()>& condition) {
  const auto limit = Clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (Clock::now() > limit) return false;
    pause_ms(1);
  }
  return true;
}

void pause_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

ncclConfig_t config_named(const char* name) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.commName = name;
  return config;
}

ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  (void)becomes_true([&] {
    OK(ncclCommGetAsyncError(comm, &state));
    return state != ncclInProgress;
  });
  return state;
}

bool is_running(cudaStream_t stream) {
  return cudaStreamQuery(stream) == cudaErrorNotReady;
}

bool all_are(const Floats& array, float value) {
  const std::vector<float> values = array.values();
  return std::all_of(values.begin(), values.end(), [&](float v) { return v == value; });
}

float sum_of(ncclComm_t comm, float mine) {
  const Floats data(1, mine);
  const CudaStream stream;
  OK(ncclAllReduce(data.data(), data.data(), 1, ncclFloat32, ncclSum, comm, stream));
  stream.wait();
  return data.values()[0];
}

bool Outcome::is_well() const {
  return std::all_of(codes.begin(), codes.end(), [](int code) { return code == 0; });
}

std::string Outcome::all() const {
  std::string text;
  for (size_t r = 0; r < codes.size(); ++r) {
    text += "rank " + std::to_string(r) + " (" + std::to_string(codes[r]) + "):\n" + outputs[r];
  }
  return text;
}

Outcome run_ranks(int n, const std::function<void(Rank&)>& body, const Environment& environment) {
  const TempFolder folder;
  void* memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* board = new (memory) Board{};
  const std::string outputs = folder / "output-";
  std::vector<pid_t> pids;
  for (int r = 0; r < n; ++r) {
    pids.push_back(::fork());
    if (pids.back() == 0) be_rank(*board, r, n, outputs, body, environment);
  }
  Outcome outcome;
  const auto limit = Clock::now() + kLimit;
  for (int r = 0; r < n; ++r) {
    outcome.codes.push_back(code_of(pids[static_cast<size_t>(r)], limit));
    std::ostringstream text;
    text << std::ifstream(outputs + std::to_string(r)).rdbuf();
    outcome.outputs.push_back(text.str());
  }
  ::munmap(memory, sizeof(Board));
  return outcome;
}

}  // namespace convoy::standin::nccl
