#include "src/resilience/chaos/link.h"

#include "src/resilience/chaos/helper.h"
#include <convoy/base/clock.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

constexpr double kSeenS = 5;
constexpr useconds_t kTickUs = 5000;
constexpr useconds_t kDrainUs = 20000;
constexpr long kLookMs = 100;

struct Answer {
  bool is_ok = false;
  std::string text{};
};

// `tc -s qdisc VERB dev DEVICE root …`
Answer tc(const std::string& verb, const std::string& device, const std::string& more = "") {
  const std::string command = "tc -s qdisc " + verb + " dev " + device + " root " + more + " 2>&1";
  Answer answer;
  FILE* pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return answer;
  std::array<char, 512> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) answer.text += part.data();
  answer.is_ok = ::pclose(pipe) == 0;
  return answer;
}

// It becomes a word of a command.
bool is_name(const std::string& device) {
  return !device.empty() && device.front() != '-' &&
         std::all_of(device.begin(), device.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
         });
}

bool is_shaped(const std::string& text) {
  return text.starts_with("qdisc tbf");
}

}  // namespace

Status may_shape(const std::string& device) {
  const auto refusal = [&](const std::string& why) {
    return Status(Code::kFailedPrecondition, "the link " + device + ": " + why);
  };
  if (!is_name(device)) return refusal("that is no name of a network device");
  if (::geteuid() != 0) return refusal("to cut or slow it takes root");
  const Answer now = tc("show", device);
  if (!now.is_ok) return refusal(now.text.empty() ? "tc can't be run" : now.text);
  // A queue that the kernel has made by itself has no number, and comes again by itself.
  if (now.text.find(" 0: ") != std::string::npos) return ok_status();
  return refusal("it has a queue of its own, which would be lost: " + now.text);
}

void keep_shaped(const std::string& device, int64_t kbit_per_s) {
  block_sigterm();
  // A burst and a queue below the size of any packet let none through.
  const std::string rate =
      kbit_per_s > 0 ? "tbf rate " + std::to_string(kbit_per_s) + "kbit burst 64kb latency 500ms"
                     : "tbf rate 8bit burst 10 limit 1";
  if (!tc("add", device, rate).is_ok) return;
  while (!is_told_to_end(kLookMs)) continue;
  // What still waits in the queue of a slow link gets through: deleting it would be a loss besides.
  if (kbit_per_s > 0 && tc("change", device, "tbf rate 10gbit burst 4mb latency 500ms").is_ok) {
    ::usleep(kDrainUs);
  }
  tc("del", device);
}

Status await_shaped(const std::string& device) {
  const TimePoint began = Clock::system().now();
  while (seconds_since(began) < kSeenS) {
    if (is_shaped(tc("show", device).text)) return ok_status();
    ::usleep(kTickUs);
  }
  return {Code::kDeadlineExceeded, "the link " + device + " has no token bucket (tc, sch_tbf)"};
}

int64_t packets_hit(const std::string& device) {
  const std::string text = tc("show", device).text;
  const size_t at = text.find("(dropped ");
  long long dropped = 0, held = 0;
  if (!is_shaped(text) || at == std::string::npos) return 0;
  std::sscanf(text.c_str() + at, "(dropped %lld, overlimits %lld", &dropped, &held);
  return dropped + held;
}

}  // namespace convoy::resilience::chaos
