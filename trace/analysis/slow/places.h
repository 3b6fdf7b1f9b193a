#pragma once

#include "trace/analysis/slow/findings.h"

#include <functional>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

// Where in a network a fault sits. Each place (a link, what a rank sends, what it receives, both,
// the border of a set of hosts) says which measurements it would raise and which it would not; the
// one that explains most with least comes first, and takes what it explains along. The measure of
// that is a likelihood ratio, less what it takes to name the place among all like it (minimum
// description length). Where several places of a kind do equally well, none is told.
namespace convoy::trace::slow {

// How much longer than usual bytes take on one link, or operations in one group.
struct Measure {
  std::vector<uint32_t> ranks;  // sender, receiver; or the group's, in its order
  bool is_link = false;
  bool all_pairs = false;  // an operation that uses all links, not those of a ring
  bool is_raised = false;  // for sure
  bool is_lossy = false;   // packets are lost
  bool is_minor = false;   // carries so little that it may be slow and not show it
  float level = 0;         // logarithm of how many times as long as usual
  float error = 0;         // standard error of level
};

struct Place {
  Class cls = Class::kUnknown;
  uint32_t rank = 0, peer = 0;      // by class; peer: of links
  std::vector<uint32_t> hosts;      // of kSlowFabric: one side
  std::vector<uint32_t> explained;  // measures
  float score = 0;                  // > 0: better than chance
  bool is_ambiguous = false;
  Class runner_up = Class::kUnknown;
  float runner_up_score = 0;
};

class Places {
 public:
  // `crosses`: whether a network is between two ranks. Hosts are numbered as by `host_of`.
  Places(std::vector<Measure> measures, std::function<bool(uint32_t, uint32_t)> crosses,
         std::function<uint32_t(uint32_t)> host_of);
  // What explains the raised measures, best first; measures that nothing explains are left out.
  std::vector<Place> find();

 private:
  using Ids = std::vector<uint32_t>;
  void add_edges(uint32_t measure);
  void order_hosts();
  std::vector<Place> candidates() const;
  void add_ends(uint32_t sender, uint32_t receiver, std::map<uint64_t, Place>& to) const;
  void add_borders(std::vector<Place>& to) const;
  void add_two_sides(std::vector<Place>& to) const;
  void weigh(Place& place, double price) const;
  double gain(const Measure& measure, float level) const;
  double lost(const Place& place) const;
  double single_price(const Place& place) const;

  std::vector<Measure> measures_;
  std::function<bool(uint32_t, uint32_t)> crosses_;
  std::function<uint32_t(uint32_t)> host_of_;
  std::vector<bool> done_;                          // measures that are explained
  std::unordered_map<uint32_t, Ids> out_, in_;      // by rank: measures that its links are part of
  std::unordered_map<uint64_t, Ids> edges_;         // by sender << 32 | receiver
  std::vector<uint32_t> hosts_;                     // in the order of their ranks
  std::unordered_map<uint32_t, uint32_t> host_at_;  // place in hosts_
};

}  // namespace convoy::trace::slow
