// Prometheus' text format, version 0.0.4. docs/trace_page.md lists the metrics.
#include "src/http/metrics.h"

#include "trace/summary/impl.h"
#include <convoy/trace/summary.h>

#include <algorithm>
#include <map>

namespace convoy::trace {
namespace {

using http::label;
using Page = http::MetricsText;

constexpr size_t kRanksByNameMax = 1024;  // of larger jobs each rank would be too many series

void add_steps(Page& page, const std::vector<JobStep>& steps,
               const std::vector<std::string>& parts) {
  if (steps.empty()) return;
  // The newest may not have come from all ranks yet.
  const JobStep& step = steps.size() > 1 ? steps[steps.size() - 2] : steps.back();
  page.one("convoy_step", "gauge", "Number of the newest step that is over.", step.step);
  page.family("convoy_step_seconds", "gauge", "Duration of that step over the ranks.");
  page.sample(step.median * 1e-6, label("over_ranks", "median"));
  page.sample(step.shortest * 1e-6, label("over_ranks", "min"));
  page.sample(step.longest * 1e-6, label("over_ranks", "max"));
  page.one("convoy_slowest_rank", "gauge", "Rank that took longest for that step.", step.slowest);
  page.family("convoy_step_part_seconds", "gauge",
              "Where the time of that step went, mean over the ranks.");
  for (size_t i = 0; i < parts.size(); ++i) {
    page.sample(step.parts[i] * 1e-6, label("part", parts[i]));
  }
}

void add_collectives(Page& page, const Collectives& collectives) {
  const auto each = [&](const auto& give) {
    for (const auto& [key, f] : collectives.figures()) {
      if (f.seen.count() == 0) continue;
      const auto& [kind, operation, size] = key;
      give(label("kind", collectives.kinds()[kind]) + "," + label("operation", operation) + "," +
               label("size_le", std::to_string(uint64_t{1} << std::min<int>(size, 62))),
           f);
    }
  };
  page.family("convoy_collective_seconds", "summary",
              "From issue to completion of collectives and messages, as ranks see it.");
  each([&](const std::string& labels, const OperationFigures& f) {
    for (const auto& [name, q] : {std::pair("0.5", 0.5), std::pair("0.99", 0.99)}) {
      page.sample(static_cast<double>(f.seen.quantile(q)) * 1e-9,
                  labels + "," + label("quantile", name));
    }
    page.sample(f.seen.sum() * 1e-9, labels, "_sum");
    page.sample(static_cast<double>(f.seen.count()), labels, "_count");
  });
  page.family("convoy_collective_skew_seconds", "summary",
              "Between the first and the last rank that comes to a collective.");
  each([&](const std::string& labels, const OperationFigures& f) {
    if (f.skew.count() == 0) return;
    page.sample(static_cast<double>(f.skew.quantile(0.99)) * 1e-9,
                labels + "," + label("quantile", "0.99"));
    page.sample(f.skew.sum() * 1e-9, labels, "_sum");
    page.sample(static_cast<double>(f.skew.count()), labels, "_count");
  });
  page.family("convoy_collective_bytes_total", "counter", "Bytes that ranks gave to them.");
  each([&](const std::string& labels, const OperationFigures& f) {
    page.sample(static_cast<double>(f.bytes), labels);
  });
}

void add_verdicts(Page& page, const std::vector<Verdict>& verdicts) {
  std::map<std::string, std::pair<int, double>> open;  // number, cost
  for (const Verdict& v : verdicts) {
    auto& [count, cost] = open[name_of(v.cls)];
    if (v.cleared != 0) continue;  // stays as 0, so that an alert on it resolves
    ++count;
    cost = std::max(cost, v.cost);
  }
  page.family("convoy_verdicts_open", "gauge", "Verdicts that are not over, by class.");
  for (const auto& [name, what] : open) page.sample(what.first, label("class", name));
  page.family("convoy_verdict_cost_ratio", "gauge", "The most that one of them costs of the step.");
  for (const auto& [name, what] : open) page.sample(what.second, label("class", name));
  page.one("convoy_verdicts_total", "counter", "Verdicts so far.",
           static_cast<double>(verdicts.size()));
}

void add_ranks(Page& page, const std::vector<RankSummary>& ranks) {
  if (ranks.size() > kRanksByNameMax) return;
  const auto each = [&](const auto& figure) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      if (!ranks[rank].heard) continue;
      page.sample(figure(ranks[rank]), label("rank", std::to_string(rank)));
    }
  };
  page.family("convoy_rank_step_seconds", "gauge", "Median step of a rank over the window.");
  each([](const RankSummary& r) { return r.steps.median() * 1e-6; });
  page.family("convoy_rank_late_seconds", "gauge",
              "For how long, in a step, others wait in collectives for this rank alone.");
  each([](const RankSummary& r) { return r.steps.mean_late() * 1e-6; });
}

}  // namespace

std::string Summary::metrics() const {
  const Impl& s = *impl_;
  Page page(s.info.job);
  std::map<std::string, int> lives = {{"running", 0}, {"stopped", 0}, {"blocked", 0},
                                      {"exited", 0},  {"killed", 0},  {"silent", 0}};
  double lost = 0, shed = 0, missing = 0, tokens = 0;
  for (const RankSummary& r : s.ranks) {
    if (!r.heard) continue;
    ++lives[s.life_of(r)];
    lost += static_cast<double>(r.lost);
    shed += static_cast<double>(r.shed);
    missing += static_cast<double>(r.missing);
    const double seconds = r.counters.recent_s();
    if (seconds > 0) {
      tokens += static_cast<double>(r.counters[ProcessFigure::kTokens].recent()) / seconds;
    }
  }
  page.one("convoy_world_size", "gauge", "Ranks of the job.", static_cast<double>(s.ranks.size()));
  page.one("convoy_generation", "gauge", "How often the job has been started again.",
           static_cast<double>(s.info.generation));
  page.family("convoy_ranks", "gauge", "Ranks by how their process is.");
  for (const auto& [life, count] : lives) page.sample(count, label("life", life));
  page.one("convoy_tokens_per_second", "gauge", "That all ranks work on.", tokens);
  add_steps(page, s.steps.all(), s.part_names());
  add_collectives(page, s.collectives);
  add_verdicts(page, s.told);
  add_ranks(page, s.ranks);
  page.one("convoy_trace_operations_total", "counter", "Collectives and messages of ranks.",
           static_cast<double>(s.operations));
  page.one("convoy_trace_batches_total", "counter", "Batches that came.",
           static_cast<double>(s.batches));
  page.one("convoy_trace_batches_missing_total", "counter", "Batches that did not come.", missing);
  page.family("convoy_trace_records_lost_total", "counter", "Records of ranks that were lost.");
  page.sample(lost, label("by", "overwritten"));
  page.sample(shed, label("by", "shed"));
  return page.take();
}

}  // namespace convoy::trace
