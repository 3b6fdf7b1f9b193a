#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

// Faults on purpose: from CONVOY_STANDIN_NCCL_FAULT, and while the job runs through a socket in the
// folder CONVOY_STANDIN_CONTROL (PID.sock; "@NAME" instead: the abstract socket NAME.PID).
//
// A fault is words; several are separated by ';':
//   do=hang|fail|slow|die|proxy_delay  what happens; needed
//   rank=N      of the communicator; any rank otherwise
//   op=N, op=N+ its operation number N on the communicator, counted from 1, or all from N on; all
//               otherwise
//   comm=NAME   the communicator's name (ncclConfig_t.commName); any otherwise
//   kind=AllReduce  the operation; any otherwise
//   result=remote_error|system_error|internal_error|cuda_error|timeout  of fail
//   by=50ms     of slow and proxy_delay; ns, us, ms or s
//
// The socket takes lines and answers with lines, the last one empty: "status", "faults",
// "fault TEXT", "clear".
namespace convoy::standin::nccl {

struct Fault {
  enum class Kind { none, hang, fail, slow, die, proxy_delay };
  Kind kind = Kind::none;
  int result = 0;  // ncclResult_t
  std::chrono::nanoseconds by{0};
};

// Which operations a fault strikes, and how often it has.
struct FaultRule {
  Fault fault;
  int rank = -1;
  uint64_t op = 0;
  bool and_later = false;
  std::string comm, kind;
  std::string text;  // as given
  uint64_t struck = 0;
};

// False, and what is wrong in `why`.
bool parse_faults(const std::string& text, std::vector<FaultRule>& rules, std::string& why);

class Faults {
 public:
  // The process's. Reads the environment once, ends the process with exit code 64 if its text is
  // bad, and opens the socket.
  static Faults& get();
  Faults() = default;
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  // Proxies are delayed when an operation is launched, all else strikes when its kernel begins.
  enum class Where { launch, kernel };
  // What is to happen to this operation here; says on stderr what strikes. One load if there are no
  // rules. The first rule that fits.
  Fault at(Where where, const std::string& comm, int rank, uint64_t op, const char* kind);

  bool add(const std::string& text, std::string& why);
  void clear();
  // Serves the socket until the object's end. False, and why.
  bool listen(const std::string& where, std::string& why);
  std::string answer(const std::string& line);  // of the socket, with the empty line

  // For "status": lines about one communicator, as long as it is registered. Called from the
  // socket's thread.
  int add_status(std::function<std::string()> lines);
  void remove_status(int id);

 private:
  void serve(int listener);

  std::atomic<bool> any_{false};
  std::mutex mutex_;  // guards what follows
  std::vector<FaultRule> rules_;
  std::mutex status_mutex_;  // the same; held while a status is asked for
  std::map<int, std::function<std::string()>> status_;
  int next_status_ = 0;
  std::string path_;
  int stop_pipe_[2] = {-1, -1};
  std::thread thread_;
};

}  // namespace convoy::standin::nccl
