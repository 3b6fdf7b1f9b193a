// From a mesh to the communicators that training makes of it: tp, cp and ep as they are; `data`,
// over which gradients are reduced, spans cp, ep and dp; `model`, over which their norm is summed
// up, spans tp and pp; and the world.
#include "src/sim/layout.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace convoy::sim {
namespace {

constexpr int kRanksMax = 1 << 17;

// The product of the sizes in the text; 0 where it isn't one of sizes (parse() then says why).
int product(std::string_view text) {
  int64_t all = 1;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const size_t equals = part.find('=');
    if (equals == std::string_view::npos) return 0;
    if (part.substr(0, equals) == "order") continue;
    int size = 0;
    const char* end = part.data() + part.size();
    if (std::from_chars(part.data() + equals + 1, end, size).ptr != end || size < 1) return 0;
    all *= size;
    if (all > kRanksMax) return 0;
  }
  return static_cast<int>(all);
}

Status check_dimensions(const Mesh& mesh) {
  for (const MeshDim& dim : mesh.dims()) {
    if (dim.name != "tp" && dim.name != "cp" && dim.name != "ep" && dim.name != "dp" &&
        dim.name != "pp") {
      return {Code::kInvalidArgument,
              "a simulated mesh has the dimensions tp, cp, ep, dp and pp, not '" + dim.name + "'"};
    }
  }
  return ok_status();
}

std::vector<std::string> present(const Mesh& mesh, std::initializer_list<const char*> names) {
  std::vector<std::string> out;
  for (const char* name : names) {
    if (mesh.size(name) > 1) out.emplace_back(name);
  }
  return out;
}

void add_groups(Layout& layout, Slot slot, const std::vector<std::string>& names,
                const std::string& prefix, const std::string& suffix, trace::Registry& registry) {
  layout.group_of[slot].assign(layout.ranks, kNone);
  layout.position[slot].assign(layout.ranks, 0);
  if (names.empty()) return;
  const std::vector<std::string_view> views(names.begin(), names.end());
  for (const std::vector<int>& ranks : layout.mesh.groups(views)) {
    Group group{.slot = slot, .ranks = {ranks.begin(), ranks.end()}};
    for (uint32_t i = 0; i < group.size(); ++i) {
      const uint32_t rank = group.ranks[i];
      layout.group_of[slot][rank] = static_cast<uint32_t>(layout.groups.size());
      layout.position[slot][rank] = i;
      if (layout.host_of(rank) != layout.host_of(group.ranks[0])) group.intranode = false;
    }
    const std::string name = prefix.empty() ? layout.mesh.group_name(views, ranks[0]) : prefix;
    group.id = registry.group({name + suffix, group.ranks});
    layout.groups.push_back(std::move(group));
  }
}

void add_pipeline(Layout& layout, const std::string& suffix, trace::Registry& registry) {
  const Mesh& mesh = layout.mesh;
  layout.stages = static_cast<uint32_t>(mesh.size("pp"));
  layout.stage.resize(layout.ranks);
  layout.next.assign(layout.ranks, kNone);
  layout.previous.assign(layout.ranks, kNone);
  layout.pipeline.assign(layout.ranks, kNone);
  const int stages = mesh.size("pp");
  for (uint32_t rank = 0; rank < layout.ranks; ++rank) {
    const int r = static_cast<int>(rank);
    const int stage = mesh.coordinate(r, "pp");
    layout.stage[rank] = static_cast<uint32_t>(stage);
    if (stages == 1) continue;
    const auto at = [&](int s) {
      return static_cast<uint32_t>(mesh.with_coordinate(r, "pp", (s + stages) % stages));
    };
    layout.next[rank] = at(stage + 1);
    layout.previous[rank] = at(stage - 1);
    if (stage > 0) continue;
    const std::vector<int> ranks = mesh.group_of(r, {"pp"});
    const uint32_t id = registry.group(
        {mesh.group_name({"pp"}, r) + suffix, std::vector<uint32_t>(ranks.begin(), ranks.end())});
    for (const int member : ranks) layout.pipeline[static_cast<size_t>(member)] = id;
  }
}

}  // namespace

std::string host_name(uint32_t host) {
  char text[16];
  std::snprintf(text, sizeof text, "node%04u", host);
  return text;
}

Result<Layout> make_layout(std::string_view mesh, int ranks_per_host, uint64_t generation,
                           trace::Registry& registry) {
  if (ranks_per_host < 1 || ranks_per_host > kRanksMax) {
    return Status(Code::kInvalidArgument, "a host has at least one rank");
  }
  Layout layout;
  const int ranks = product(mesh);
  CONVOY_ASSIGN_OR_RETURN(layout.mesh, Mesh::parse(mesh, std::max(1, ranks)));
  CONVOY_RETURN_IF_ERROR(check_dimensions(layout.mesh));
  layout.ranks = static_cast<uint32_t>(layout.mesh.size());
  layout.per_host = static_cast<uint32_t>(ranks_per_host);
  layout.hosts = (layout.ranks + layout.per_host - 1) / layout.per_host;
  const std::string suffix = generation <= 1 ? "" : "#" + std::to_string(generation);
  const Mesh& m = layout.mesh;
  add_groups(layout, kTp, present(m, {"tp"}), "", suffix, registry);
  add_groups(layout, kCp, present(m, {"cp"}), "", suffix, registry);
  add_groups(layout, kEp, present(m, {"ep"}), "", suffix, registry);
  // Where it has the ranks of another slot's groups it is a communicator of its own all the same.
  const std::vector<std::string> data = present(m, {"cp", "ep", "dp"});
  const bool shared = data.size() == 1 && data[0] != "dp";
  add_groups(layout, kData, data, "", (shared ? "~data" : "") + suffix, registry);
  const bool pipelined = m.size("pp") > 1;
  add_groups(layout, kModel, pipelined ? present(m, {"tp", "pp"}) : std::vector<std::string>(), "",
             suffix, registry);
  add_groups(layout, kWorld, present(m, {"tp", "cp", "ep", "dp", "pp"}), "world", suffix, registry);
  layout.norm = pipelined ? kModel : layout.has(kTp) ? kTp : kData;
  add_pipeline(layout, suffix, registry);
  return layout;
}

}  // namespace convoy::sim
