#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Pre-flight checks of a node: before its first job, and before it comes back from quarantine. They
// find what is broken, and measure what is only slow, which a comparison with other nodes tells.
namespace convoy::resilience {

enum class Verdict : uint8_t {
  kOk,
  kSkipped,  // the node has no such thing, or nobody asked for it
  kWarn,     // works, but worse than it should, or will not under some load
  kFail,     // jobs will fail here
};
std::string_view verdict_name(Verdict verdict);

enum class Better : uint8_t { kNeither, kHigher, kLower };

struct CheckResult {
  std::string name{};     // "disk.fsync"; the part before the dot is what it is about
  std::string subject{};  // a folder or a peer, where there can be several
  Verdict verdict = Verdict::kOk;
  double value = 0;     // in `unit`; without meaning where that is empty
  std::string unit{};   // "s", "B", "B/s", …
  std::string found{};  // the value in words: "2.1 ms"
  std::string expected{};
  std::string advice{};              // one sentence: what to do; "" where nothing needs doing
  Better better = Better::kNeither;  // values of nodes can be compared if not kNeither
};

// What one node found.
struct DoctorReport {
  std::string node{};
  bool is_quick = false;
  double seconds = 0;
  std::vector<CheckResult> results{};
};
// The worst of all; what was skipped does not count.
Verdict verdict_of(const DoctorReport& report);

struct Peer {
  std::string host{};
  uint16_t port = 0;
  std::string text() const;  // as parse_peer() takes it
};
// "HOST:PORT", an IPv6 address in brackets.
Result<Peer> parse_peer(std::string_view text);

inline constexpr size_t kPeersMax = 64;
inline constexpr size_t kFoldersMax = 8;

struct DoctorOptions {
  std::string node{};  // its name in the report; empty: this machine's
  bool is_quick = false;
  std::vector<std::string> folders{};  // to be written to; kFoldersMax
  std::vector<Peer> peers{};           // each runs serve_peers(); kPeersMax
  uint64_t space_min = 1ULL << 30;     // bytes free in each folder
  uint64_t memory_min = 1ULL << 30;    // bytes available
  double bandwidth_min = 50UL << 20;   // bytes a second to and from each peer
  // Where the kernel's files are; tests make up their own.
  std::string proc = "/proc";
  std::string sys = "/sys";
};

// Runs all checks: within some 5 s, within 1 s if is_quick. Each check is a child process with a
// deadline, so that a disk or a driver that hangs hangs nothing here: it is a failed result that
// says so, and the child is killed, or left behind if the kernel does not let it die. Call it from
// a process that has no other thread (others start `convoy doctor --json`). Bad options:
// kInvalidArgument.
Result<DoctorReport> run_doctor(const DoctorOptions& options);

// Serves run_doctor() of other nodes on `listener` until `stop` can be read. One thread; whoever
// sends what is not the protocol's, or nothing for long, is disconnected. Failures of peers are log
// lines; the status is of the loop.
Status serve_peers(const UniqueFd& listener, const UniqueFd& stop);

// One line of JSON, and back. kDataLoss: it is not a report.
std::string to_json(const DoctorReport& report);
Result<DoctorReport> report_from_json(std::string_view text);

// A node whose value is worse than its siblings', by more than they differ among each other.
struct Outlier {
  std::string node{};
  std::string name{};      // of the check
  double value = 0;        // of the node; of several subjects the median
  double median = 0;       // of its siblings
  double mad = 0;          // median absolute deviation of its siblings, 0 of one
  double times_worse = 0;  // than the median, above 1
  std::string unit{};
};
struct Comparison {
  size_t nodes = 0;
  size_t metrics = 0;               // that at least two nodes have measured
  std::vector<Outlier> outliers{};  // the farthest from its siblings first
};
// Pure. A node stands out where it is at least 1.3 times worse than its siblings' median
// (latencies: 2 times) and, with three nodes or more, farther from it than 3 scaled MADs, or 3
// times worse than the worst sibling. Each node is compared with the others only, so that among
// three a bad one can't widen the spread that it is judged by. kInvalidArgument: fewer than two
// nodes, two of one name, or quick and full runs together.
Result<Comparison> compare_reports(std::span<const DoctorReport> reports);

// "12.3 GiB/s", "2.1 ms": a value as people read it.
std::string format_value(double value, std::string_view unit);

}  // namespace convoy::resilience
