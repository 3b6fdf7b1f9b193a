// Which checks run, when, and for how long.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/compare.h"
#include "src/resilience/doctor/runner.h"
#include <convoy/base/config.h>
#include <convoy/base/socket.h>

#include <algorithm>
#include <map>

namespace convoy::resilience {
namespace {

// Time a check has beyond what it measures for: it ends long before, unless something hangs.
constexpr int64_t kPatienceMs = 10000;
constexpr int64_t kQuickPatienceMs = 5000;

class Doctor {
 public:
  explicit Doctor(const DoctorOptions& options) : options_(options) {}

  Results run() {
    start_background();
    read();
    measure();
    probe_and_measure_peers();
    runner_.wait(Phase::kBackground);
    Results all;
    for (size_t i = 0; i < runner_.size(); ++i) {
      all.insert(all.end(), runner_.results(i).begin(), runner_.results(i).end());
    }
    return all;
  }

 private:
  Nanos ms(int64_t full, int64_t quick) const {
    return std::chrono::milliseconds(options_.is_quick ? quick : full);
  }
  Nanos patience() const { return ms(kPatienceMs, kQuickPatienceMs); }
  size_t start(const char* name, Phase phase, Nanos time, const char* advice,
               std::function<Results()> run, std::string subject = {}) {
    return runner_.start({.name = name,
                          .subject = std::move(subject),
                          .phase = phase,
                          .deadline = time + patience(),
                          .advice = advice,
                          .run = std::move(run)});
  }

  // Steal and throttling are watched while the machine is under the load of the other checks.
  void start_background() {
    const Nanos watch = ms(2500, 500);
    start("cpu.steal", Phase::kBackground, watch, "Look at the machine's load.",
          [this, watch] { return check_steal_and_throttling(options_, watch); });
    start("gpu", Phase::kBackground, ms(2500, 200),
          "Look in `dmesg` for errors of the driver (Xid); if it is only slow to start, turn "
          "persistence on (`nvidia-smi -pm 1`).",
          [] { return check_gpu(); });
  }

  void read() {
    const char* slow = "The kernel answers slowly: look at the machine's load, and in `dmesg`.";
    const auto begin = [&](const char* name, Results (*check)(const DoctorOptions&)) {
      start(name, Phase::kRead, {}, slow, [this, check] { return check(options_); });
    };
    begin("cpu.cores", check_cores);
    begin("memory.available", check_available_memory);
    begin("shared_memory", check_shared_memory);
    begin("limits", check_limits);
    begin("kernel", check_kernel);
    begin("processes", check_processes);
    start("clock.synchronised", Phase::kRead, {}, slow, [] { return check_clock(); });
    runner_.wait(Phase::kRead);
  }

  void measure() {
    const Nanos memory = ms(800, 150);
    start("memory.copy", Phase::kMeasure, memory, "Look for swapping (`vmstat 1`) and other load.",
          [this, memory] { return check_memory_bandwidth(options_, memory); });
    runner_.wait(Phase::kMeasure);
    for (const std::string& folder : options_.folders) {
      const Nanos disk = ms(800, 150) / static_cast<int64_t>(options_.folders.size());
      start(
          "disk", Phase::kMeasure, disk,
          "The disk or its server hangs: look in `dmesg`, and at the server if it is a remote "
          "one.",
          [this, &folder, disk] { return check_disk(options_, folder, disk); }, folder);
      runner_.wait(Phase::kMeasure);
    }
  }

  // Round trips to all peers beside each other, so that those that do not answer cost time once.
  void probe_and_measure_peers() {
    const char* advice = "Check the name server and the network between both.";
    const Nanos probe = ms(1000, 300);
    std::vector<size_t> places;
    for (const Peer& peer : options_.peers) {
      places.push_back(start(
          "network.round_trip", Phase::kProbe, probe, advice,
          [&peer, probe] { return probe_peer(peer, probe); }, peer.text()));
    }
    runner_.wait(Phase::kProbe);
    for (size_t i = 0; i < places.size(); ++i) {
      if (runner_.results(places[i]).front().verdict == Verdict::kFail) continue;
      const Peer& peer = options_.peers[i];
      const Nanos time = std::max(ms(1200, 150) / static_cast<int64_t>(places.size()), ms(60, 20));
      start(
          "network.send", Phase::kMeasure, time, advice,
          [this, &peer, time] { return measure_peer(options_, peer, time); }, peer.text());
      runner_.wait(Phase::kMeasure);
    }
  }

  const DoctorOptions& options_;
  Runner runner_;
};

// Results about one thing stand together, in the order in which the things are first named.
void group_by_topic(Results& results) {
  std::map<std::string, size_t> places;
  for (const CheckResult& result : results) places.emplace(topic_of(result), places.size());
  std::stable_sort(results.begin(), results.end(), [&](const CheckResult& a, const CheckResult& b) {
    return places[topic_of(a)] < places[topic_of(b)];
  });
}

Status check_options(const DoctorOptions& options) {
  if (options.peers.size() > kPeersMax) {
    return {Code::kInvalidArgument, std::to_string(options.peers.size()) + " peers; at most " +
                                        std::to_string(kPeersMax) +
                                        " are checked in one run: name a sample"};
  }
  if (options.folders.size() > kFoldersMax) {
    return {Code::kInvalidArgument, std::to_string(options.folders.size()) + " folders; at most " +
                                        std::to_string(kFoldersMax) + " are checked in one run"};
  }
  return ok_status();
}

}  // namespace

Verdict verdict_of(const DoctorReport& report) {
  Verdict worst = Verdict::kOk;
  for (const CheckResult& result : report.results) {
    if (result.verdict != Verdict::kSkipped) worst = std::max(worst, result.verdict);
  }
  return worst;
}

std::string Peer::text() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return (is_ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Peer> parse_peer(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) {
    return Status(Code::kInvalidArgument,
                  "--peer " + std::string(text) + ": HOST:PORT, the port that its --listen has");
  }
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  CONVOY_ASSIGN_OR_RETURN(const int64_t port,
                          parse_integer("--peer's port", text.substr(colon + 1), 1, 65535));
  return Peer{std::string(host), static_cast<uint16_t>(port)};
}

Result<DoctorReport> run_doctor(const DoctorOptions& options) {
  CONVOY_RETURN_IF_ERROR(check_options(options));
  const TimePoint begin = Clock::system().now();
  DoctorReport report{.node = options.node.empty() ? host_name() : options.node,
                      .is_quick = options.is_quick,
                      .results = Doctor(options).run()};
  group_by_topic(report.results);
  compare_peers(report.results);
  report.seconds = std::chrono::duration<double>(Clock::system().now() - begin).count();
  return report;
}

}  // namespace convoy::resilience
