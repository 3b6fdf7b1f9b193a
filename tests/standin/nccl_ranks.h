#pragma once

#include <atomic>
#include <chrono>
#include <cuda_runtime_api.h>
#include <functional>
#include <map>
#include <nccl.h>
#include <string>
#include <vector>

// Ranks of the stand-in for NCCL as processes of one test, each with a device of its own. The
// test's own process must not call CUDA: the stand-in's devices don't survive a fork.
namespace convoy::standin::nccl {

constexpr int kRanksMostTested = 8;

// What the ranks of a run share.
struct Board {
  std::atomic<int> arrived{0};
  std::atomic<int> ids_made{0};
  ncclUniqueId ids[16];
  std::atomic<int> dying{0};
};

// True within a time that is never short.
bool becomes_true(const std::function<bool()>& condition);

// In a rank's process.
class Rank {
 public:
  // `outputs`: files whose names end with the rank.
  Rank(Board& board, int rank, int nranks, std::string outputs)
      : rank(rank), n(nranks), board_(board), outputs_(std::move(outputs)) {}

  // All ranks make it, in the same order.
  ncclUniqueId next_id();
  ncclComm_t make(ncclConfig_t* config = nullptr);
  void meet();  // all ranks of the run, on the host
  // Ends the rank that calls it by SIGKILL; the others go on once it is as good as dead.
  void die(int who);
  ncclUniqueId& shared_id() { return board_.ids[15]; }
  // The rank's error output so far: findings and faults.
  bool has_said(const std::string& text, int of) const;
  bool has_said(const std::string& text) const { return has_said(text, rank); }
  bool says(const std::string& text, int of) const {
    return becomes_true([&] { return has_said(text, of); });
  }
  bool says(const std::string& text) const { return says(text, rank); }
  // Counts a failure and says it; the rank goes on.
  static void expect(bool holds, const char* what, const char* file, int line);
  static int failures;

  const int rank, n;

 private:
  Board& board_;
  const std::string outputs_;
  int ids_ = 0, meetings_ = 0;
};
#define EXPECT(condition) \
  convoy::standin::nccl::Rank::expect((condition), #condition, __FILE__, __LINE__)
#define OK(call) EXPECT((call) == ncclSuccess)
#define CUDA(call) EXPECT((call) == cudaSuccess)

void pause_ms(int ms);
ncclConfig_t config_named(const char* name);
// Polls until a call that returned ncclInProgress is done.
ncclResult_t settled(ncclComm_t comm);
bool is_running(cudaStream_t stream);

// Elements on the current device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    CUDA(cudaMalloc(&data_, bytes()));
    CUDA(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice));
  }
  DeviceArray(size_t count, T value) : DeviceArray(std::vector<T>(count, value)) {}
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  // Of all that is done; not synchronised with streams.
  std::vector<T> values() const {
    std::vector<T> out(count_);
    CUDA(cudaMemcpy(out.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return out;
  }
  T* data() const { return static_cast<T*>(data_); }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  size_t count_;
  void* data_ = nullptr;
};
using Floats = DeviceArray<float>;
bool all_are(const Floats& array, float value);

class CudaStream {
 public:
  CudaStream() { CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  // Not destroyed: a test may leave a kernel in it that hangs.
  operator cudaStream_t() const { return stream_; }
  void wait() const { CUDA(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Sums one float over the communicator and returns the result; for "does it still work".
float sum_of(ncclComm_t comm, float mine);

struct Outcome {
  std::vector<int> codes;  // exit codes; -N: ended by signal N
  std::vector<std::string> outputs;
  bool is_well() const;
  std::string all() const;  // outputs
  bool says(const std::string& text) const { return all().find(text) != std::string::npos; }
};
using Environment = std::map<std::string, std::string>;
// What waits for a rank tells of it after half a second. By default only after a minute, so that a
// busy machine causes no findings.
inline const Environment kImpatient = {{"CONVOY_STANDIN_NOTICE_S", "0.5"}};
// Each rank performs `body` in a process of its own. Those that take too long are killed.
Outcome run_ranks(int n, const std::function<void(Rank&)>& body,
                  const Environment& environment = {});

}  // namespace convoy::standin::nccl
