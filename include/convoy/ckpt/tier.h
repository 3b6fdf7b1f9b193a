#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace convoy::ckpt {

// How far a step has come, explicitly and in this order. A step that is durable in a tier has its
// commit record there.
enum class Tier : uint8_t {
  kStaged = 0,         // whole in the memory of all nodes' agents: survives all trainers
  kReplicated = 1,     // pieces lie in the memory of other nodes: survives the loss of nodes
  kLocalDurable = 2,   // committed in the checkpoint folder
  kRemoteDurable = 3,  // committed in the object store
};
inline constexpr size_t kTiers = 4;
std::string_view tier_name(Tier tier);  // "staged", "replicated", "local durable", …

// What a save does that finds both snapshots in use: one being written, one waiting for it.
enum class Overtake : uint8_t {
  kWait = 0,     // until one is written
  kSkip = 1,     // saves nothing; all ranks of the job skip alike
  kReplace = 2,  // takes the place of the one that waits
  // As kWait for a second, then as kSkip: a disk that is full or silent does not hold training up,
  // which whoever watches its steps would take for a hang. On several nodes: as kWait.
  kWaitBriefly = 3,
};

}  // namespace convoy::ckpt
