#pragma once

#include "trace/summary/collectives.h"
#include "trace/summary/links.h"
#include "trace/summary/phases.h"
#include "trace/summary/steps.h"
#include <convoy/trace/clock_model.h>
#include <convoy/trace/summary.h>

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace convoy::trace {

struct RankSummary {
  bool heard = false;
  int32_t pid = 0;
  Life life = Life::kUnknown;
  int32_t exit_code = 0;
  int64_t last = 0;                               // newest moment that it has told of, root's clock
  uint64_t batches = 0, number = 0, missing = 0;  // batches: come, newest, gaps
  uint64_t lost = 0, shed = 0, operations = 0;
  std::string doing;               // innermost open span, of the newest heartbeat
  std::vector<Operation> pending;  // oldest ones, root's clock
  RankSteps steps;
  Counters counters;
  // Of the steps that have not been split yet, host's clock.
  std::vector<Interval> intervals;
  struct OpenStep {
    uint32_t step = 0;
    uint32_t thread = 0;
    int64_t begin = 0, end = 0;
  };
  std::vector<OpenStep> ended;
  double late_us = 0;  // since its last step
};

struct Summary::Impl {
  Impl(const Registry& names, const SummaryOptions& wanted)
      : registry(names), options(wanted), collectives(wanted.members_max, wanted.groups_max) {}

  const Registry& registry;
  SummaryOptions options;
  JobInfo info;
  std::vector<RankSummary> ranks;
  ClockModel clocks;
  Collectives collectives;
  JobSteps steps;
  int64_t first = 0, now = 0;  // root's clock
  uint64_t operations = 0, spans = 0, batches = 0, ignored = 0, links = 0;
  // By the registry's numbers: what they mean here, filled in as they occur.
  struct NameMeaning {
    bool known = false;
    bool is_step = false;
    bool is_round_trip = false;
    std::optional<Stretch> stretch;
    std::optional<LinkFigure> link;
    std::optional<ProcessFigure> process;
  };
  std::vector<NameMeaning> names;
  struct SignatureMeaning {
    bool known = false;
    bool has_group = false;     // else one too many, or of another job
    bool synchronises = false;  // nobody leaves before all have come
    bool blocking = false;      // Interval::blocking
    OperationFigures* figures = nullptr;
    Signature signature;
    std::string text;  // "all_reduce float32 sum 4 MiB"
  };
  std::vector<SignatureMeaning> signatures;
  nlohmann::ordered_json verdicts = nlohmann::ordered_json::array();
  nlohmann::ordered_json hints = nlohmann::ordered_json::array();
  std::vector<Verdict> told;

  // The sink's side (summary.cc).
  void reset(const JobInfo& job);
  RankSummary* rank_of(uint32_t rank);
  void hear(int64_t root_time);
  Operation on_root(uint32_t rank, Operation operation) const;
  const NameMeaning& name(uint32_t number);
  const SignatureMeaning* signature(uint32_t number);
  void add_operation(uint32_t rank, RankSummary& r, const Operation& operation);
  void add_collective(uint32_t rank, const Operation& on_root, const SignatureMeaning& meaning);
  void add_message(RankSummary& r, const Operation& operation, const Signature& signature);
  void add_span(RankSummary& r, const SpanEvent& span);
  void add_counter(RankSummary& r, const CounterEvent& counter);
  void add_state(uint32_t rank, RankSummary& r, const RankState& state);
  void keep(RankSummary& r, const Interval& interval);
  Link* link_of(RankSummary& r, int64_t peer);
  void split_steps(uint32_t rank, RankSummary& r, size_t count);

  // The views' side (views.cc).
  std::string group_name(uint32_t group) const;
  std::string signature_text(uint32_t number) const;
  bool differ(const Instance& instance) const;  // members disagree on what it is
  std::vector<std::string> part_names() const;
  bool silent(const RankSummary& r) const;
  const char* life_of(const RankSummary& r) const;  // as people call it
};

// As much of these lists as a view shows.
inline constexpr size_t kListMax = 256;

inline int64_t micros(int64_t ns) {
  return ns / 1000;
}
nlohmann::ordered_json verdict_json(const Verdict& verdict, const Registry& registry);
nlohmann::ordered_json hint_json(const Hint& hint, const Registry& registry);

}  // namespace convoy::trace
