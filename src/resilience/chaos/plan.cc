#include "src/resilience/chaos/plan.h"

#include <convoy/base/config.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <utility>

namespace convoy::resilience::chaos {
namespace {

// How often a kind is drawn, beside the others.
struct Row {
  std::string_view name;
  int weight;
};
constexpr std::array<Row, kKinds> kTable{{{"kill", 10},
                                          {"crash", 3},
                                          {"terminate", 2},
                                          {"halt", 3},
                                          {"pause", 2},
                                          {"hog", 1},
                                          {"memory", 1},
                                          {"kill_spare", 2},
                                          {"kill_supervisor", 3},
                                          {"halt_supervisor", 1},
                                          {"kill_agent", 2},
                                          {"kill_tracer", 1},
                                          {"corrupt", 1},
                                          {"flip", 3},
                                          {"flip_gradient", 3},
                                          {"disk_full", 1},
                                          {"disk_slow", 1},
                                          {"cut_link", 4},
                                          {"slow_link", 4}}};
constexpr int kWeights = [] {
  int sum = 0;
  for (const Row& row : kTable) sum += row.weight;
  return sum;
}();
// A machine that is silent for longer may count as lost.
constexpr double kShortCutS = 1;
constexpr int kDoublePercent = 20;   // of the faults that follow one which breaks ranks
constexpr int kSeveralPercent = 25;  // of the faults that strike ranks

// Distributions of the standard library differ from one to the next; the engine does not.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint64_t>(n)); }
  double between(double low, double high) { return low + (high - low) * below(1000) / 1000.0; }

 private:
  std::mt19937_64 engine_;
};

bool strikes_ranks(Kind kind) {
  return kind <= Kind::kPause;
}

bool lasts(Kind kind) {
  return kind == Kind::kPause || kind == Kind::kHog || kind == Kind::kMemory || strikes_disk(kind);
}

bool is_possible(Kind kind, const Target& target, bool tracer_is_gone) {
  if (kind == Kind::kKillSpare) return target.has_spares;
  if (kind == Kind::kKillAgent) return target.has_agent;
  if (kind == Kind::kKillTracer) return target.has_tracer && !tracer_is_gone;
  if (flips(kind)) return target.replicas > 1;
  if (kind == Kind::kDiskFull) return target.has_disk;
  if (strikes_link(kind)) return target.has_link;
  if (kind == Kind::kDiskSlow) return target.has_disk && target.can_freeze;
  return kind != Kind::kCorrupt || target.has_folder;
}

std::string what_is_missing(Kind kind) {
  switch (kind) {
    case Kind::kKillSpare:
      return "the job has no spare (--spares 1)";
    case Kind::kKillAgent:
      return "the job has no agent yet";
    case Kind::kKillTracer:
      return "the job has no tracer (--trace)";
    case Kind::kFlip:
    case Kind::kFlipGradient:
      return "the job has no replicas that are compared (dp=1, or --sharded)";
    case Kind::kDiskFull:
      return "the folder of --checkpoints has no file system of its own: others would feel it";
    case Kind::kDiskSlow:
      return "the folder of --checkpoints has no file system of its own that can be frozen: that "
             "takes root, and ext4 or xfs mounted on the folder";
    case Kind::kCutLink:
    case Kind::kSlowLink:
      return "no --link is given: the network device between this machine and the job's others";
    default:
      return "the job has no checkpoint folder";
  }
}

Kind draw_kind(Dice& dice, const Target& target, bool tracer_is_gone, bool in_recovery) {
  while (true) {
    int at = dice.below(kWeights);
    size_t i = 0;
    while (at >= kTable[i].weight) at -= kTable[i++].weight;
    const Kind kind = static_cast<Kind>(i);
    // What lasts, or waits for the job to be whole, says nothing in the middle of a recovery.
    const bool fits = !in_recovery || breaks_ranks(kind) || kind == Kind::kKillSupervisor ||
                      kind == Kind::kKillAgent || kind == Kind::kHaltSupervisor;
    if (fits && !(in_recovery && kind == Kind::kCorrupt) &&
        is_possible(kind, target, tracer_is_gone)) {
      return kind;
    }
  }
}

std::vector<int> draw_ranks(Dice& dice, int ranks) {
  int count = 1;
  if (ranks > 2 && dice.below(100) < kSeveralPercent) count = 2 + dice.below(ranks / 2);
  std::vector<int> all(static_cast<size_t>(ranks));
  std::iota(all.begin(), all.end(), 0);
  for (int i = 0; i < count; ++i) {
    const int other = i + dice.below(ranks - i);
    std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(other)]);
  }
  all.resize(static_cast<size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

std::string known_kinds() {
  std::string text;
  for (const Row& row : kTable) text += (text.empty() ? "" : ", ") + std::string(row.name);
  return text;
}

Result<Kind> kind_of(const std::string& name) {
  std::vector<std::string> names;
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (kTable[i].name == name) return static_cast<Kind>(i);
    names.emplace_back(kTable[i].name);
  }
  const std::string near = nearest_name(name, names);
  return Status(Code::kInvalidArgument, "there is no fault of kind '" + name + "'" +
                                            (near.empty() ? "" : "; did you mean " + near + "?") +
                                            ". Kinds: " + known_kinds());
}

// `before`: the fault before it, if there is one.
Status check_in_recovery(const Fault& fault, const Fault* before) {
  if (before == nullptr) {
    return {Code::kInvalidArgument, "\"in_recovery\" needs a fault before it"};
  }
  if (flips(fault.kind) || strikes_disk(fault.kind) || strikes_link(fault.kind)) {
    return {Code::kInvalidArgument, "can't be \"in_recovery\": it takes a job that trains"};
  }
  if (!flips(before->kind)) return ok_status();
  return {Code::kInvalidArgument,
          "can't follow a flip \"in_recovery\": until the flip is found, whoever takes a replica's "
          "state may take the wrong one"};
}

Status check(const Fault& fault, const Target& target, const Fault* before) {
  if (strikes_ranks(fault.kind) && fault.ranks.empty()) {
    return {Code::kInvalidArgument, "needs \"ranks\": [0, …]"};
  }
  if (flips(fault.kind) && fault.ranks.size() != 1) {
    return {Code::kInvalidArgument, "needs one rank: \"ranks\": [0]"};
  }
  for (const int rank : fault.ranks) {
    if (rank >= 0 && rank < target.ranks) continue;
    return {Code::kInvalidArgument, "there is no rank " + std::to_string(rank) + ": the job has " +
                                        std::to_string(target.ranks)};
  }
  if (!is_possible(fault.kind, target, false)) {
    return {Code::kInvalidArgument, what_is_missing(fault.kind)};
  }
  if (fault.in_recovery) CONVOY_RETURN_IF_ERROR(check_in_recovery(fault, before));
  if (fault.seconds < 0 || fault.after_s < 0 || fault.amount < 1) {
    return {Code::kInvalidArgument, "times can't be negative, nor an amount below 1"};
  }
  return ok_status();
}

Result<Fault> fault_of(const nlohmann::json& json) {
  static constexpr std::array kFields{"kind",        "ranks",   "after_s", "at_step",
                                      "in_recovery", "seconds", "amount"};
  Fault fault;
  for (const auto& [name, value] : json.items()) {
    if (std::find(kFields.begin(), kFields.end(), name) != kFields.end()) continue;
    return Status(Code::kInvalidArgument,
                  "there is no field '" + name +
                      "'. Fields: kind, ranks, after_s, at_step, in_recovery, seconds, amount");
  }
  CONVOY_ASSIGN_OR_RETURN(fault.kind, kind_of(json.value("kind", "")));
  fault.ranks = json.value("ranks", std::vector<int>());
  fault.after_s = json.value("after_s", fault.after_s);
  fault.at_step = json.value("at_step", fault.at_step);
  fault.in_recovery = json.value("in_recovery", false);
  fault.seconds = json.value("seconds", fault.seconds);
  const int64_t usual = fault.kind == Kind::kMemory     ? 256
                        : fault.kind == Kind::kSlowLink ? 10000
                                                        : fault.amount;
  fault.amount = json.value("amount", usual);
  return fault;
}

}  // namespace

std::string_view name_of(Kind kind) {
  return kTable[static_cast<size_t>(kind)].name;
}

bool breaks_ranks(Kind kind) {
  return kind <= Kind::kHalt || kind == Kind::kCorrupt;
}

bool needs_recovery(const Fault& fault) {
  return breaks_ranks(fault.kind) || flips(fault.kind) ||
         (fault.kind == Kind::kCutLink && fault.seconds > kShortCutS);
}

bool flips(Kind kind) {
  return kind == Kind::kFlip || kind == Kind::kFlipGradient;
}

bool strikes_link(Kind kind) {
  return kind == Kind::kCutLink || kind == Kind::kSlowLink;
}

bool strikes_disk(Kind kind) {
  return kind == Kind::kDiskFull || kind == Kind::kDiskSlow;
}

std::string describe(const Fault& fault) {
  std::string text(name_of(fault.kind));
  for (size_t i = 0; i < fault.ranks.size(); ++i) {
    text += i > 0 ? ", " : fault.ranks.size() > 1 ? " of ranks " : " of rank ";
    text += std::to_string(fault.ranks[i]);
  }
  return text + (fault.in_recovery ? ", in a recovery" : "");
}

std::string to_json(const Fault& fault) {
  nlohmann::ordered_json json;
  json["kind"] = std::string(name_of(fault.kind));
  if (!fault.ranks.empty()) json["ranks"] = fault.ranks;
  if (fault.at_step >= 0) {
    json["at_step"] = fault.at_step;
  } else if (fault.in_recovery) {
    json["in_recovery"] = true;
  } else {
    json["after_s"] = fault.after_s;
  }
  if (lasts(fault.kind)) json["seconds"] = fault.seconds;
  if (fault.kind == Kind::kHog || fault.kind == Kind::kMemory || flips(fault.kind) ||
      fault.kind == Kind::kSlowLink) {
    json["amount"] = fault.amount;
  }
  return json.dump();
}

std::vector<Fault> draw(uint64_t seed, int count, double every_s, const Target& target) {
  Dice dice(seed);
  std::vector<Fault> faults;
  bool tracer_is_gone = false;
  for (int i = 0; i < count; ++i) {
    Fault fault;
    fault.in_recovery =
        i > 0 && breaks_ranks(faults.back().kind) && dice.below(100) < kDoublePercent;
    fault.kind = draw_kind(dice, target, tracer_is_gone, fault.in_recovery);
    tracer_is_gone = tracer_is_gone || fault.kind == Kind::kKillTracer;
    if (strikes_ranks(fault.kind)) fault.ranks = draw_ranks(dice, target.ranks);
    fault.after_s = dice.between(0.5 * every_s, 1.5 * every_s);
    // Well below the least hang limit, 2 s.
    const bool is_short = fault.kind == Kind::kPause || strikes_link(fault.kind);
    fault.seconds = is_short ? dice.between(0.1, 1.0) : dice.between(1, 3);
    if (fault.kind == Kind::kMemory) fault.amount = 64 + dice.below(192);
    if (fault.kind == Kind::kHog) fault.amount = 1 + dice.below(4);
    if (fault.kind == Kind::kSlowLink) fault.amount = 1000 * (1 + dice.below(50));
    if (flips(fault.kind)) {
      fault.ranks = {dice.below(target.ranks)};
      fault.amount = 1 + dice.below(INT32_MAX);
    }
    faults.push_back(std::move(fault));
  }
  return faults;
}

Result<std::vector<Fault>> scenario_of_json(const std::string& text, const Target& target) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("faults") || !json["faults"].is_array()) {
    return Status(Code::kInvalidArgument, "a scenario is a JSON object {\"faults\": [{…}, …]}");
  }
  std::vector<Fault> faults;
  for (const auto& entry : json["faults"]) {
    const std::string where = "fault " + std::to_string(faults.size() + 1);
    try {
      auto fault = fault_of(entry);
      if (!fault.ok()) return fault.status().with_context(where);
      const Status fits = check(*fault, target, faults.empty() ? nullptr : &faults.back());
      if (!fits.ok()) return fits.with_context(where + ", " + describe(*fault));
      faults.push_back(std::move(fault).value());
    } catch (const nlohmann::json::exception& error) {
      return Status(Code::kInvalidArgument, where + ": " + error.what());
    }
  }
  if (faults.empty()) return Status(Code::kInvalidArgument, "the scenario has no faults");
  return faults;
}

}  // namespace convoy::resilience::chaos
