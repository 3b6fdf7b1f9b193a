#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/clock_model.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// A stored stream in the formats that other tools open. It is read twice: a Survey learns the
// clocks and what there is, then an Aligner hands an Exporter what was selected, with all times on
// the root's clock. docs/trace_export.md tells what becomes what.
namespace convoy::trace {

// What of a stream is exported; everything where it says nothing. Ranges hold both ends.
struct Selection {
  std::vector<std::pair<uint32_t, uint32_t>> ranks;
  std::optional<std::pair<uint64_t, uint64_t>> steps;
  // Seconds after the job's first event.
  std::optional<std::pair<double, double>> seconds;

  bool has_rank(uint32_t rank) const;
};

// "3", "0-7", "0-3,8,12-15". kInvalidArgument that names `what`.
Result<std::vector<std::pair<uint32_t, uint32_t>>> parse_ranges(std::string_view what,
                                                                std::string_view text);

// The first reading. Memory: some hundred bytes for each rank. Not thread-safe.
class Survey : public Sink {
 public:
  struct Rank {
    std::string host;
    int32_t pid = 0;
    uint64_t batches = 0, operations = 0, spans = 0, counters = 0;
    uint64_t lost = 0, shed = 0;
    int64_t first = INT64_MAX, last = 0;           // on the host's clock
    int64_t steps_from = INT64_MAX, steps_to = 0;  // the selected ones
    uint64_t steps = 0;
    uint32_t main_thread = 0;        // the one that steps are told of
    std::optional<RankState> state;  // the last one
  };

  // Both outlive it.
  Survey(const Registry& registry, const Selection& selection);
  void job(const JobInfo& job) override { job_ = job; }
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override { clocks_.sample(sample); }

  const JobInfo& job() const { return job_; }
  const Selection& selection() const { return selection_; }
  const ClockModel& clocks() const { return clocks_; }
  const std::vector<Rank>& ranks() const { return ranks_; }  // by number; without batches: none
  uint64_t batches() const { return batches_; }
  // The first and the last moment of all that is there, on the root's clock; 0 of an empty stream.
  std::pair<int64_t, int64_t> bounds() const;
  // From when to when each rank contributes, on the root's clock; first > second: not at all.
  std::vector<std::pair<int64_t, int64_t>> windows() const;
  // "rank 3 · pp 1 dp 0 tp 1 · node0 · pid 4711"
  std::string title(uint32_t rank) const;

 private:
  void note(Rank& rank, int64_t first, int64_t last) const;

  const Registry& registry_;
  const Selection& selection_;
  std::optional<uint32_t> step_;  // the name's number
  JobInfo job_;
  ClockModel clocks_;
  std::vector<Rank> ranks_;
  uint64_t batches_ = 0;
};

struct ExportSummary {
  uint64_t ranks = 0, operations = 0, spans = 0, counters = 0, unfinished = 0, verdicts = 0;
  uint64_t files = 0, bytes = 0;
  uint64_t plain_bytes = 0;  // before compression
};

// Takes batches whose times are on the root's clock. Errors of writing are kept until finish().
class Exporter {
 public:
  virtual ~Exporter() = default;
  virtual void batch(const Batch& batch) = 0;
  // What had begun and not ended when the stream ended; times as in batch().
  virtual void unfinished(uint32_t rank, const RankState& state) = 0;
  // Nothing comes after it.
  virtual Status finish(const std::vector<Verdict>& verdicts) = 0;
  const ExportSummary& summary() const { return summary_; }

 protected:
  ExportSummary summary_;
};

// The second reading: selects, and moves times. Not thread-safe.
class Aligner : public Sink {
 public:
  // `progress` is called now and then with the number of batches so far. All outlive it.
  Aligner(const Survey& survey, Exporter& to, std::function<void(uint64_t)> progress = nullptr);
  void job(const JobInfo& /*job*/) override {}
  void batch(const Batch& batch) override;
  void clock(const ClockSample& /*sample*/) override {}
  // Hands over what is unfinished. After the last batch.
  void finish();

 private:
  bool move(Operation& operation, uint32_t rank, std::pair<int64_t, int64_t> window) const;
  bool move(SpanEvent& span, uint32_t rank, std::pair<int64_t, int64_t> window) const;

  const Survey& survey_;
  Exporter& to_;
  std::function<void(uint64_t)> progress_;
  const std::vector<std::pair<int64_t, int64_t>> windows_;
  uint64_t batches_ = 0;
  Batch moved_;  // memory is reused
};

struct PerfettoOptions {
  bool compress = true;  // packets in deflated bundles, which Perfetto's tools read
};
// One file for ui.perfetto.dev and trace_processor. Registry and survey outlive the exporters.
Result<std::unique_ptr<Exporter>> create_perfetto(const std::filesystem::path& path,
                                                  const Registry& registry, const Survey& survey,
                                                  const PerfettoOptions& options = {});
// One file in Chrome's JSON trace format.
Result<std::unique_ptr<Exporter>> create_chrome(const std::filesystem::path& path,
                                                const Registry& registry, const Survey& survey);
// A file for each rank as PyTorch's profiler writes it; the folder is made, and files of ranks in
// it are replaced.
Result<std::unique_ptr<Exporter>> create_kineto(const std::filesystem::path& folder,
                                                const Registry& registry, const Survey& survey);
// operations.parquet, spans.parquet, counters.parquet, ranks.parquet, verdicts.parquet. Loads Arrow
// at the first call; kInvalidArgument tells how to install it.
Result<std::unique_ptr<Exporter>> create_parquet(const std::filesystem::path& folder,
                                                 const Registry& registry, const Survey& survey);

}  // namespace convoy::trace
