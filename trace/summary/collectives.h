#pragma once

#include "trace/summary/histogram.h"
#include <convoy/trace/event.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

// Groups and their newest collectives, joined over ranks.
namespace convoy::trace {

// A rank's part, as Operation; 0 issued: has not been heard of.
struct Member {
  int64_t issued = 0, started = 0, completed = 0;
  uint32_t signature = 0;
  // When the rank was there: on a GPU the call comes long before the kernel.
  int64_t arrival() const { return started != 0 ? started : issued; }
};

struct Instance {
  uint32_t sequence = 0;  // 0: empty
  uint32_t signature = 0;
  uint32_t issued = 0, completed = 0;  // by so many members
  std::vector<Member> members;         // in the group's order
};

// What an instance comes to.
struct Timing {
  int64_t first_issue = 0, first_arrival = 0, last_arrival = 0, end = 0;
  int64_t second_arrival = 0;  // the last but one
  uint32_t last_member = 0;
  int64_t skew() const { return last_arrival - first_arrival; }
  // For how long all the others waited for the last one.
  int64_t lateness() const { return last_arrival - second_arrival; }
  // Once all were there.
  int64_t transfer() const { return end > last_arrival ? end - last_arrival : 0; }
};
Timing timing_of(const Instance& instance);

struct Group {
  GroupInfo info;
  uint8_t kind = 0;
  bool arithmetic = false;                           // ranks are begin + step * i
  std::vector<std::pair<uint32_t, uint32_t>> order;  // else: (rank, index), sorted
  std::vector<Instance> ring;                        // empty: has no room
  uint32_t latest = 0;                               // sequence that anybody has issued
  uint64_t completed = 0;                            // instances
  int64_t last_end = 0;
  double skew_ns = 0, transfer_ns = 0;  // sums over completed instances

  // Index of a rank in it; -1: is not in it.
  int64_t index_of(uint32_t rank) const;
};

// Of collectives of one kind of group, operation and size.
struct OperationFigures {
  Histogram seen;            // ns from issue to completion, for each rank
  Histogram transfer, skew;  // ns, for each instance
  uint64_t bytes = 0;        // sum over `seen`
};

class Collectives {
 public:
  // The kind of a group, operation, size: the exponent of the power of two that is not less.
  using Key = std::tuple<uint8_t, std::string, uint8_t>;

  Collectives(uint64_t members_max, uint32_t groups_max)
      : members_max_(members_max), groups_max_(groups_max) {}
  void job(const JobInfo& job);
  // Once for each group that events name, before they are given. nullptr: one too many.
  Group* group(uint32_t id, const GroupInfo& info);
  const Group* find(uint32_t id) const;
  const std::vector<Group>& all() const { return groups_; }
  const std::vector<std::string>& kinds() const { return kinds_; }

  // A rank's operation, completed or not; times on the root's clock. Returns the instance that is
  // whole by it, else nullptr.
  const Instance* add(Group& group, uint32_t rank, const Operation& operation);
  OperationFigures& figures(uint8_t kind, const Signature& signature);
  const std::map<Key, OperationFigures>& figures() const { return figures_; }

 private:
  uint8_t kind_of(const GroupInfo& info);
  uint32_t instances_of(const Group& group) const;

  uint64_t members_max_, members_ = 0;
  uint32_t groups_max_;
  JobInfo job_;
  std::vector<Group> groups_;  // by Registry::groups
  std::vector<std::string> kinds_;
  std::map<Key, OperationFigures> figures_;
  std::unordered_map<std::string, uint8_t> operations_;
};

}  // namespace convoy::trace
