// Failure mixes and constants: those built in, and from JSON.
#include "src/resilience/goodput/goodput.h"
#include <convoy/base/config.h>

#include <nlohmann/json.hpp>

#include <cmath>

namespace convoy::resilience::goodput {
namespace {

using Json = nlohmann::json;

template <typename Value>
struct Named {
  const char* name;
  Value value;
};
constexpr Named<FaultKind> kKinds[] = {{"exit", FaultKind::kExit},
                                       {"killed", FaultKind::kKilled},
                                       {"out_of_memory", FaultKind::kOutOfMemory},
                                       {"hang", FaultKind::kHang},
                                       {"node_lost", FaultKind::kNodeLost},
                                       {"network", FaultKind::kNetwork},
                                       {"corruption", FaultKind::kCorruption}};
constexpr Named<Seen> kSeen[] = {{"end", Seen::kEnd},
                                 {"line", Seen::kLine},
                                 {"silence", Seen::kSilence},
                                 {"hang", Seen::kHang},
                                 {"compare", Seen::kCompare}};

Status bad(const std::string& text) {
  return {Code::kInvalidArgument, text};
}

template <typename Value, size_t N>
Result<Value> named(const Named<Value> (&all)[N], const std::string& field,
                    const std::string& name) {
  std::string known;
  for (const auto& one : all) {
    if (name == one.name) return one.value;
    known += (known.empty() ? "" : ", ") + std::string(one.name);
  }
  return bad(field + " '" + name + "' is none of " + known);
}

Result<Cause> cause_of(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (key != "name" && key != "count" && key != "kind" && key != "seen" && key != "stays") {
      return bad("a cause has no field '" + key + "': name, count, kind, seen, stays");
    }
  }
  Cause cause{.name = json.at("name"), .count = json.at("count")};
  if (!(cause.count >= 0)) return bad("count of '" + cause.name + "' is less than 0");
  CONVOY_ASSIGN_OR_RETURN(cause.kind, named(kKinds, "kind", json.at("kind")));
  CONVOY_ASSIGN_OR_RETURN(cause.seen, named(kSeen, "seen", json.at("seen")));
  cause.stays = json.value("stays", false);
  return cause;
}

}  // namespace

// Table of root causes in the report on Llama 3 (419 unexpected interruptions in 54 days); the
// counts are published, what they are for the policy is our reading: a GPU that fails ends its
// process and stays broken; a machine that goes down is silent, or its line ends; of switches and
// cables half pass by, half cut a machine off.
Mix llama3() {
  using enum FaultKind;
  return {"Llama 3 405B",
          16384,
          54,
          {{"faulty GPU", 148, kExit, Seen::kEnd, true},
           {"GPU memory (HBM3)", 72, kExit, Seen::kEnd, true},
           {"software bug", 54, kExit, Seen::kEnd, false},
           {"switch or cable, passes by", 18, kNetwork, Seen::kHang, false},
           {"switch or cable, machine cut off", 17, kNodeLost, Seen::kSilence, true},
           {"host maintenance, unplanned", 32, kNodeLost, Seen::kLine, true},
           {"GPU SRAM", 19, kExit, Seen::kEnd, true},
           {"GPU system processor", 17, kHang, Seen::kHang, true},
           {"NIC", 7, kNodeLost, Seen::kSilence, true},
           {"NCCL watchdog time-out", 7, kHang, Seen::kHang, false},
           {"silent data corruption", 6, kCorruption, Seen::kCompare, false},
           {"GPU thermal interface and sensor", 6, kExit, Seen::kEnd, true},
           {"SSD", 3, kNodeLost, Seen::kSilence, true},
           {"power supply", 3, kNodeLost, Seen::kSilence, true},
           {"server chassis", 2, kNodeLost, Seen::kSilence, true},
           {"IO expansion board", 2, kNodeLost, Seen::kSilence, true},
           {"dependency", 2, kExit, Seen::kEnd, false},
           {"CPU", 2, kNodeLost, Seen::kSilence, true},
           {"system memory", 2, kNodeLost, Seen::kSilence, true}}};
}

Result<Mix> mix_of_json(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    Mix mix{.name = json.value("name", "failures"),
            .ranks = json.at("ranks"),
            .days = json.at("days"),
            .causes = {}};
    if (mix.ranks < 1 || !(mix.days > 0)) return bad("ranks and days have to be more than 0");
    for (const Json& one : json.at("causes")) {
      CONVOY_ASSIGN_OR_RETURN(Cause cause, cause_of(one));
      mix.causes.push_back(std::move(cause));
    }
    return mix;
  } catch (const Json::exception& error) {
    return bad(std::string("no failure mix: ") + error.what());
  }
}

Result<Constants> constants_of(const std::string& name) {
  if (name == "measured") return Constants{};
  if (name != "gpu") return bad("there are no constants '" + name + "': measured, gpu, or a file");
  Constants gpu;
  gpu.gather_s = 1.6;  // and NCCL's abort and barrier, as NVRx states them for 16k ranks
  gpu.groups_s = 30;   // NCCL, as published for more than 10,000 GPUs
  gpu.promote_s = 5;   // a spare has libraries and a CUDA context, and no memory yet
  gpu.respawn_s = 60;  // libraries, CUDA contexts, compiled kernels
  gpu.load_s = 120;
  return gpu;
}

Status change(Constants& constants, const std::string& text) {
  try {
    const Json json = Json::parse(text);
    for (const auto& [name, value] : json.items()) {
      std::vector<std::string> names;
      const Constant* found = nullptr;
      for (const Constant& c : kConstants) {
        names.emplace_back(c.name);
        if (name == c.name) found = &c;
      }
      if (found == nullptr) {
        const std::string near = nearest_name(name, names);
        return bad("there is no constant '" + name + "'" +
                   (near.empty() ? "" : "; did you mean " + near + "?"));
      }
      const double number = value;
      if (!(number >= 0) || !std::isfinite(number)) return bad(name + " is less than 0");
      constants.*found->value = number;
    }
  } catch (const Json::exception& error) {
    return bad(std::string("no constants: ") + error.what());
  }
  if (constants.step_s <= 0 || constants.save_every_steps < 1) {
    return bad("step_s has to be more than 0, save_every_steps at least 1");
  }
  return ok_status();
}

}  // namespace convoy::resilience::goodput
