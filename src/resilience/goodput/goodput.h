#pragma once

#include <convoy/base/status.h>
#include <convoy/mesh/mesh.h>
#include <convoy/resilience/policy.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

// What share of its time a job trains in when things fail: its failures are drawn from published
// rates, each goes through the recovery policy (decide()) that the supervisor has, and what that
// costs is added up. Nothing runs; nothing here looks at a clock.
namespace convoy::resilience::goodput {

enum class Seen : uint8_t {
  kEnd,      // a process ends
  kLine,     // the line to a machine ends, and it stays away
  kSilence,  // a machine says nothing more
  kHang,     // no rank does a step
  kCompare,  // replicas are compared in the step itself
};

struct Cause {
  std::string name;
  double count = 0;  // in the mix's time, on its ranks
  FaultKind kind = FaultKind::kExit;
  Seen seen = Seen::kEnd;
  bool stays = false;  // the node is broken: whatever is started there fails, until it is repaired
};

struct Mix {
  std::string name;
  int ranks = 1;
  double days = 1;
  std::vector<Cause> causes;
};

// In seconds, if their names end in _s. Where they come from: kConstants.
struct Constants {
  double step_s = 6;
  double end_s = 0.01, line_s = 1.5, silence_s = 3, hang_s = 2, hang_steps = 4;
  double gather_s = 0.6, groups_s = 3.4, promote_s = 0.1, respawn_s = 0.3, state_s = 5;
  double save_every_steps = 100, save_s = 0.1, load_s = 60;
  double check_share = 0.0003;
  double false_per_day = 0;
  double repair_s = 6 * 3600, by_hand_s = 1800;
};

struct Constant {
  const char* name;
  double Constants::*value;
  bool is_cost;  // of an incident: how much it matters is worth knowing
  const char* what;
};
inline constexpr std::array kConstants{
    Constant{"step_s", &Constants::step_s, false, "a step of the job"},
    Constant{"end_s", &Constants::end_s, true, "until a process's end is seen"},
    Constant{"line_s", &Constants::line_s, true, "until a machine whose line ended counts as lost"},
    Constant{"silence_s", &Constants::silence_s, true, "the same of a machine that is silent"},
    Constant{"hang_steps", &Constants::hang_steps, true, "steps without a step: a hang; and"},
    Constant{"hang_s", &Constants::hang_s, true, "so much more"},
    Constant{"gather_s", &Constants::gather_s, true, "all ranks leave their groups and are ready"},
    Constant{"groups_s", &Constants::groups_s, true, "all ranks form new groups"},
    Constant{"promote_s", &Constants::promote_s, true, "a spare that waits takes a rank"},
    Constant{"respawn_s", &Constants::respawn_s, true, "a process starts"},
    Constant{"state_s", &Constants::state_s, true, "state of one rank from a replica"},
    Constant{"save_every_steps", &Constants::save_every_steps, false, "steps between checkpoints"},
    Constant{"save_s", &Constants::save_s, true, "training stands still for a checkpoint"},
    Constant{"load_s", &Constants::load_s, true, "all ranks load a checkpoint"},
    Constant{"check_share", &Constants::check_share, true, "of a step: replicas are compared"},
    Constant{"false_per_day", &Constants::false_per_day, false, "healthy ranks taken for hung"},
    Constant{"repair_s", &Constants::repair_s, true, "until a broken machine is back"},
    Constant{"by_hand_s", &Constants::by_hand_s, true, "until people start a job that has stopped"},
};

struct Setup {
  Mesh mesh;
  int per_node = 8;  // ranks
  int spares = 16;   // nodes that wait
  bool is_replicated = true;
  double days = 54;
  double more_failures = 1;  // times the mix's rate
  Constants constants{};
};

enum Part : uint8_t {
  kUseful,
  kChecks,
  kSaves,
  kDetect,
  kCutOff,
  kGather,
  kStart,
  kGroups,
  kState,
  kRedone,
  kFewer,
  kWaiting,
  kByHand,
  kParts,
};
const char* name_of(Part part);

struct Outcome {
  std::array<double, kParts> share{};  // of the time; their sum is 1
  double incidents = 0, replaced = 0, respawned = 0, shrunk = 0, stops = 0;
  double least = 1, most = 0;  // useful share, of several seeds

  double useful() const { return share[kUseful]; }
};

// Llama 3 405B's, and from a file: {"name", "ranks", "days", "causes": [{"name", "count", "kind",
// "seen", "stays"}]}. kInvalidArgument names what is wrong.
Mix llama3();
Result<Mix> mix_of_json(const std::string& text);
// Built in: "measured" (as in docs/recovery.md), "gpu" (published, where only GPUs could tell).
Result<Constants> constants_of(const std::string& name);
// Replaces those that the object names.
Status change(Constants& constants, const std::string& json);

// kInvalidArgument: a mesh that nodes of that size can't hold.
Result<Outcome> simulate(const Setup& setup, const Mix& mix, uint64_t seed);
// The mean of `seeds` runs.
Result<Outcome> simulate(const Setup& setup, const Mix& mix, uint64_t seed, int seeds);

struct Row {
  std::string what;
  Outcome outcome;
};
// The setup itself, and what becomes of it when one thing is another one.
Result<std::vector<Row>> vary(const Setup& setup, const Mix& mix, uint64_t seed, int seeds);
// What is lost in each row, by part.
std::string to_svg(const std::vector<Row>& rows, const std::string& title);

}  // namespace convoy::resilience::goodput
