#pragma once

#include "trace/analysis/slow/findings.h"
#include "trace/analysis/slow/places.h"

#include <deque>
#include <map>
#include <utility>
#include <vector>

// Faults of links, NICs, switches: by the senders' counters where there are any, else by how long
// operations take once all ranks have come.
namespace convoy::trace::slow {

class NetworkFaults {
 public:
  void clear() { *this = NetworkFaults(); }
  // To be called once for each new step.
  std::vector<Finding> find(const View& view);

 private:
  // A link, or the operations of one flow.
  struct Signal {
    bool is_link = false;  // sender, receiver; else group
    uint32_t sender = 0, receiver = 0, group = 0;
    bool within_host = false;
    bool has_round_trip = false;
    bool is_minor = false;   // carries little beside the busiest of its ends
    bool all_pairs = false;  // an operation that uses all links of its group
    uint64_t type = 0;       // signals of one type are alike
    float base = 0;
    std::vector<uint32_t> steps = {};  // of each value; 0: there is none
    float volume = 0;                  // in a step: bytes, or operations
    float seconds = 0;                 // that the values are of
    float retransmits = 0;             // in the window
    Change change = {};
    float level = 0;  // logarithm of now to before, whether it has changed or not
    float error = 0;  // of level; 0: not known
    float cost = 0;   // of the step time
    float ratio = 1;  // now to before
  };
  struct Event {
    uint32_t step = 0, sender = 0, receiver = 0;
    float ratio = 0, cost = 0;
  };
  void add_links(const View& view, std::vector<Signal>& signals, std::vector<float>& values);
  void add_flows(const View& view, std::vector<Signal>& signals, std::vector<float>& values);
  // Compares each signal with its past and with its like.
  void judge(const View& view, std::vector<Signal>& signals, std::vector<float>& values);
  static void take_common(const std::vector<size_t>& members, Table& ratios);
  static void estimate(const float* row, size_t columns, float noise, Signal& signal);
  std::vector<Finding> localise(const View& view, std::vector<Signal>& signals) const;
  static std::vector<Measure> measures_of(const View& view,
                                          const std::vector<const Signal*>& signals);
  std::vector<Finding> between_hosts(const View& view,
                                     const std::vector<const Signal*>& signals) const;
  std::vector<Finding> within_hosts(const View& view, const std::vector<const Signal*>& hot,
                                    const std::vector<Finding>& between) const;
  static Finding of_place(const View& view, const Place& place,
                          const std::vector<const Signal*>& explained);
  static bool is_worth_it(const View& view, const Signal& signal);
  void flaps(const View& view, const std::vector<Signal>& signals, const Table& ratios,
             const std::vector<float>& noise);
  std::vector<Finding> flapping(const View& view, const std::vector<Finding>& lasting) const;

  std::vector<Base> link_base_, flow_base_;
  std::deque<Event> events_;
};

}  // namespace convoy::trace::slow
