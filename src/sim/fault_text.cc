// Faults as people write them.
#include <convoy/sim/cluster.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

namespace convoy::sim {
namespace {

using trace::Class;

struct Entry {
  Class cls;
  const char* help;
};

constexpr std::array kFaults{
    Entry{Class::kSlowCompute, "rank computes factor (1.2) times as long"},
    Entry{Class::kSlowComputePeriodic, "the same (1.5) for on_s (6), then not for off_s (18)"},
    Entry{Class::kSlowHost, "all ranks of host compute factor (1.15) times as long"},
    Entry{Class::kSlowNic, "rank's network, factor (4), both directions"},
    Entry{Class::kSlowTx, "what rank sends to other hosts, factor (4)"},
    Entry{Class::kSlowRx, "what rank receives from other hosts, factor (4)"},
    Entry{Class::kSlowLink, "from rank to peer, factor (4)"},
    Entry{Class::kSlowFabric, "all that enters or leaves host's leaf, factor (4)"},
    Entry{Class::kLinkFlap, "rank to peer is away for seconds (0.2) after each off_s (6)"},
    Entry{Class::kSlowIntranode, "between rank and peer of a host, factor (6)"},
    Entry{Class::kDataLoaderStall, "rank's samples take seconds (0.4) longer every (4) steps"},
    Entry{Class::kStorageStall, "the same of all ranks at once"},
    Entry{Class::kHostPause, "each rank pauses for seconds (0.3) about every (20) steps, in turn"},
    Entry{Class::kHostLaunchBound, "rank's host hands over work factor (4) times as slowly"},
    Entry{Class::kCheckpointStall, "rank's (0) checkpoints take seconds (2) longer"},
    Entry{Class::kWarmUp, "steps from … until (1 … 5) are slow, factor (4) at first"},
    Entry{Class::kDesyncOrder, "rank swaps two collectives in step from"},
    Entry{Class::kMismatchSize, "rank gives half the bytes"},
    Entry{Class::kMismatchDtype, "rank gives another type of the same size"},
    Entry{Class::kMismatchRoot, "rank names another root"},
    Entry{Class::kMismatchReduction, "rank asks for another reduction"},
    Entry{Class::kMissingCall, "rank leaves out a collective"},
    Entry{Class::kNotJoined, "rank ends before its first collective"},
    Entry{Class::kCrash, "rank dies in a collective; whole_host=1: its host with all ranks"},
    Entry{Class::kHostHang, "rank's host code stands still"},
    Entry{Class::kGpuStuck, "rank's device stands still"},
    Entry{Class::kNetHang, "nothing goes from rank to peer any more"},
    Entry{Class::kDeadlockCycle, "rank and another call two groups the other way round"},
    Entry{Class::kMessageUnmatched, "peer does not receive a message of rank"},
    Entry{Class::kImbalanceStage, "stage computes factor (1.25) times as long"},
    Entry{Class::kImbalanceExpert,
          "factor (2.5) times as many tokens for one rank, another every (6) steps"},
    Entry{Class::kImbalanceData, "longer sequences, factor up to (1.6), in turn"},
    Entry{Class::kTelemetryLoss, "nothing more is heard of rank"},
    Entry{Class::kClockStep, "host's clock steps by seconds (0.05)"},
};

Status bad_field(std::string_view text, std::string_view field) {
  return {Code::kInvalidArgument,
          "fault '" + std::string(text) + "': '" + std::string(field) +
              "' is not FIELD=NUMBER with one of rank, peer, host, stage, factor, seconds, from, "
              "until, every, on_s, off_s, whole_host"};
}

template <class T>
bool read(std::string_view text, T& to) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), to);
  return error == std::errc() && end == text.data() + text.size();
}

bool set(Fault& f, std::string_view name, std::string_view value) {
  if (name == "rank") return read(value, f.rank) && f.rank >= 0;
  if (name == "peer") return read(value, f.peer) && f.peer >= 0;
  if (name == "host") return read(value, f.host) && f.host >= 0;
  if (name == "stage") return read(value, f.stage) && f.stage >= 0;
  if (name == "factor") return read(value, f.factor) && f.factor > 0;
  if (name == "seconds") return read(value, f.seconds) && f.seconds > 0;
  if (name == "from") return read(value, f.from) && f.from > 0;
  if (name == "until") return read(value, f.until);
  if (name == "every") return read(value, f.every) && f.every > 0;
  if (name == "on_s") return read(value, f.on_s) && f.on_s > 0;
  if (name == "off_s") return read(value, f.off_s) && f.off_s > 0;
  if (name == "whole_host") {
    f.whole_host = value == "1";
    return value == "0" || value == "1";
  }
  return false;
}

}  // namespace

std::string fault_name(Class cls) {
  std::string name = trace::name_of(cls);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

std::string fault_help() {
  std::string help;
  for (const Entry& e : kFaults) {
    std::string line = "  " + fault_name(e.cls);
    line.resize(std::max<size_t>(line.size() + 1, 25), ' ');
    help += line + e.help + "\n";
  }
  return help;
}

Result<Fault> parse_fault(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const auto at =
      std::ranges::find_if(kFaults, [&](const Entry& e) { return name == fault_name(e.cls); });
  if (at == kFaults.end()) {
    return Status(Code::kInvalidArgument,
                  "there is no fault '" + std::string(name) + "'; there are\n" + fault_help());
  }
  Fault fault;
  fault.cls = at->cls;
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const std::string_view field = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), field.size() + 1));
    const size_t equals = field.find('=');
    if (equals == std::string_view::npos ||
        !set(fault, field.substr(0, equals), field.substr(equals + 1))) {
      return bad_field(text, field);
    }
  }
  return fault;
}

}  // namespace convoy::sim
