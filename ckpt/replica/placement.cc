// Greedy: the domain with the most nodes left gives the next one, of those that the group has not
// yet. What is left over at the end joins groups that lack its domain. Within a group, the order is
// such that any k + m neighbours (in the circle) are of different domains where that can be.
#include "ckpt/replica/placement.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace convoy::ckpt {
namespace {

using Groups = std::vector<std::vector<uint32_t>>;

Groups make_groups(const std::vector<std::string>& domain_of, uint32_t size) {
  std::map<std::string, std::vector<uint32_t>> left;  // nodes, descending
  for (uint32_t node = static_cast<uint32_t>(domain_of.size()); node-- > 0;) {
    left[domain_of[node]].push_back(node);
  }
  const auto nodes = static_cast<uint32_t>(domain_of.size());
  Groups groups(nodes / size);
  const auto next_for = [&](const std::vector<uint32_t>& group) {
    std::map<std::string, size_t> used;
    for (const uint32_t node : group) ++used[domain_of[node]];
    // Fewest times used in the group, then most nodes left, then by name.
    auto best = left.end();
    for (auto at = left.begin(); at != left.end(); ++at) {
      if (at->second.empty()) continue;
      if (best == left.end() || std::pair(used[at->first], best->second.size()) <
                                    std::pair(used[best->first], at->second.size())) {
        best = at;
      }
    }
    const uint32_t node = best->second.back();
    best->second.pop_back();
    return node;
  };
  for (auto& group : groups) {
    while (group.size() < size) group.push_back(next_for(group));
  }
  // The rest, each into the group that has the fewest of its domain, then the smallest.
  for (auto& [domain, rest] : left) {
    for (; !rest.empty(); rest.pop_back()) {
      const auto count = [&](const std::vector<uint32_t>& group) {
        return std::ranges::count_if(group, [&](uint32_t n) { return domain_of[n] == domain; });
      };
      auto& group = *std::ranges::min_element(
          groups, {}, [&](const auto& g) { return std::pair(count(g), g.size()); });
      group.push_back(rest.back());
    }
  }
  return groups;
}

// Neighbours of one domain are moved apart: the most frequent domains first, dealt out with the
// largest step that the group allows.
void spread_out(std::vector<uint32_t>& group, const std::vector<std::string>& domain_of) {
  std::map<std::string, std::vector<uint32_t>> by_domain;
  for (const uint32_t node : group) by_domain[domain_of[node]].push_back(node);
  std::vector<std::vector<uint32_t>> rows;
  for (auto& [name, nodes] : by_domain) rows.push_back(nodes);
  std::ranges::stable_sort(rows, std::greater<>(), [](const auto& row) { return row.size(); });
  std::vector<uint32_t> row;
  for (const auto& nodes : rows) row.insert(row.end(), nodes.begin(), nodes.end());
  const size_t turns = rows.front().size();
  std::vector<uint32_t> out;
  for (size_t turn = 0; turn < turns; ++turn) {
    for (size_t i = turn; i < row.size(); i += turns) out.push_back(row[i]);
  }
  group = std::move(out);
}

}  // namespace

Result<Placement> place_replicas(const std::vector<std::string>& domains,
                                 const ReplicaScheme& scheme) {
  if (scheme.k < 1 || scheme.pieces() > kReplicaPiecesMax) {
    return Status(Code::kInvalidArgument, "peer memory of " + std::to_string(scheme.k) + " + " +
                                              std::to_string(scheme.m) +
                                              " pieces: k is at least 1, k + m at most 32");
  }
  if (domains.size() < scheme.pieces()) {
    return Status(Code::kInvalidArgument,
                  "peer memory of " + std::to_string(scheme.k) + " + " + std::to_string(scheme.m) +
                      " pieces needs as many nodes; there are " + std::to_string(domains.size()));
  }
  std::vector<std::string> domain_of = domains;
  for (size_t node = 0; node < domain_of.size(); ++node) {
    if (domain_of[node].empty()) domain_of[node] = "node " + std::to_string(node);
  }
  Placement out;
  out.holders.resize(domains.size());
  for (std::vector<uint32_t>& group : make_groups(domain_of, scheme.pieces())) {
    std::ranges::sort(group);
    spread_out(group, domain_of);
    for (size_t at = 0; at < group.size(); ++at) {
      std::vector<uint32_t>& holders = out.holders[group[at]];
      std::map<std::string, std::set<uint32_t>> shared;
      for (uint32_t piece = 0; piece < scheme.pieces(); ++piece) {
        holders.push_back(group[(at + piece) % group.size()]);
        shared[domain_of[holders.back()]].insert(holders.back());
      }
      for (const auto& [domain, nodes] : shared) {
        if (nodes.size() < 2) continue;
        out.warnings.push_back(
            "node " + std::to_string(group[at]) + " has " + std::to_string(nodes.size()) +
            " pieces of its snapshot in failure domain '" + domain +
            "': if that is lost as a whole, count it as " + std::to_string(nodes.size()) +
            " nodes. Use more domains, or fewer pieces.");
      }
    }
  }
  return out;
}

}  // namespace convoy::ckpt
