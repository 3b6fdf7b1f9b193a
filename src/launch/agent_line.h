#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>

// What the guardian and the launcher proper both know of this machine's agent, so that either of
// them can see to it that what ranks have saved becomes durable.
namespace convoy::launch {

// What agents have said of the newest step that they have taken over and that has to become
// durable: "owes STEP", and "owes nothing" once it is, or is known to have failed.
class OwedSteps {
 public:
  void feed(std::string_view packet);
  // It has ended by itself: what it owed is lost, until a later agent owes that step or a newer one
  // no more.
  void agent_died();
  std::optional<uint64_t> lost() const { return lost_; }

 private:
  std::optional<uint64_t> owed_, lost_;
};

// The newest step in each tier, as the agent has said: "tiers STAGED REPLICATED LOCAL REMOTE".
class TierSteps {
 public:
  void feed(std::string_view packet);
  // By ckpt::Tier; -1: none.
  const std::array<int64_t, 4>& steps() const { return steps_; }

 private:
  std::array<int64_t, 4> steps_{-1, -1, -1, -1};
};

// Shared by fork(): both processes have all of it.
struct AgentLine {
  // Packets to and from the agent (ckpt's AgentOptions::launcher). When the last copy of `ours` has
  // gone, the agent knows that it is alone: it drains and ends.
  UniqueFd ours;
  UniqueFd theirs;                    // for the next agent
  std::atomic<pid_t>* pid = nullptr;  // of the running one; 0: none. In shared memory
  Nanos timeout{};                    // see drain_agent()
  OwedSteps owed = {};                // as this process has heard
  TierSteps tiers = {};
};
// Hears what agents have said until now. Does not block.
void hear(AgentLine& line);
Result<AgentLine> make_agent_line(Nanos timeout);

// What an agent says while it drains: "writing STEP DONE TOTAL MORE" (bytes of that step; how many
// steps come after it), and at the end "lost STEP WHY" for a step that it could not write.
class DrainNews {
 public:
  // False: the packet says nothing new.
  bool feed(std::string_view packet);
  // "checkpoint step 120: 1.2 GiB of 3.4 GiB"; empty: nothing is known to be written.
  std::string what() const;
  // 0 to 1.
  double part() const;
  // Empty, or what could not be written and why.
  const std::string& lost() const { return lost_; }

 private:
  uint64_t step_ = 0, done_ = 0, total_ = 0, more_ = 0;
  bool known_ = false;
  std::string lost_;
};

// Called some times a second; true: give up now.
using DrainTick = std::function<bool(const DrainNews& news)>;

// Tells the running agent, if there is one, to end, and blocks until all that ranks have saved is
// durable and it has ended; else ends it, and the text says what is missing: kDeadlineExceeded
// (nothing was written for line.timeout), kAborted (`tick` gave up), kUnavailable (it died),
// kDataLoss (the disk did not take it). The agent must be a child of the calling process.
Status drain_agent(AgentLine& line, const DrainTick& tick);

}  // namespace convoy::launch
