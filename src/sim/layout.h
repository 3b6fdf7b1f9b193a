#pragma once

#include "src/sim/random.h"
#include <convoy/base/status.h>
#include <convoy/mesh/mesh.h>
#include <convoy/sim/cluster.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Who is where, and who talks to whom.
namespace convoy::sim {

// ns of true time since the beginning of the run.
using Time = int64_t;
inline constexpr Time kNever = INT64_MAX / 4;  // sums with it don't overflow
inline constexpr Time kMillisecond = 1'000'000;
inline constexpr Time kSecond = 1'000'000'000;
// Of ns or s, cut at some days, so that sums of absurd ones stay within what Time holds.
inline Time to_time(double ns) {
  return static_cast<Time>(std::min(ns, 1e15));
}
inline Time nanoseconds(double seconds) {
  return to_time(seconds * 1e9);
}

// The communicators of a rank, at most one of each kind.
enum Slot : uint8_t { kTp, kCp, kEp, kData, kModel, kWorld, kSlots };
inline constexpr uint32_t kNone = UINT32_MAX;

struct Group {
  uint32_t id = 0;  // in the registry
  Slot slot = kTp;
  bool intranode = true;  // all of it
  std::vector<uint32_t> ranks;
  uint32_t size() const { return static_cast<uint32_t>(ranks.size()); }
};

struct Layout {
  Mesh mesh;
  uint32_t ranks = 1, hosts = 1, per_host = 8, stages = 1;
  std::vector<Group> groups;
  std::array<std::vector<uint32_t>, kSlots> group_of;  // [rank], kNone: has no such group
  std::array<std::vector<uint32_t>, kSlots> position;  // [rank] in it
  Slot norm = kData;  // over whose ranks gradients' norm is summed up last
  // Of the pipeline; kNone without one. With two stages both are the same rank.
  std::vector<uint32_t> stage, next, previous;  // [rank]
  std::vector<uint32_t> pipeline;               // [rank] registry's group for its messages

  uint32_t host_of(uint32_t rank) const { return rank / per_host; }
  bool has(Slot slot) const { return !group_of[slot].empty() && group_of[slot][0] != kNone; }
  uint32_t size(Slot slot) const { return has(slot) ? groups[group_of[slot][0]].size() : 1; }
};

std::string host_name(uint32_t host);

// Groups are told to `registry`; those of a later generation under names of their own.
Result<Layout> make_layout(std::string_view mesh, int ranks_per_host, uint64_t generation,
                           trace::Registry& registry);

}  // namespace convoy::sim
