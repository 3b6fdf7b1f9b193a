// What exports cost, in time and bytes: `trace_export FOLDER [STEPS]`, through
// `make bench BENCH=trace.export`. Eight ranks' batches are in memory; times are aligned, slices
// placed in lanes, files written. Beside it what the plainest Perfetto file takes: two packets for
// a slice, each with absolute time, track and name. Rounds of all take turns; medians over rounds.
// Seconds are those of a core.
#include "tests/trace/small_job.h"
#include "trace/export/labels.h"
#include "trace/export/output_file.h"
#include "trace/export/proto_writer.h"
#include <convoy/trace/export.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <vector>

namespace {

using namespace convoy;
using namespace convoy::trace;

constexpr int kRounds = 5;

struct Tape final : Sink {
  void job(const JobInfo& /*job*/) override {}
  void batch(const Batch& batch) override { batches.push_back(batch); }
  void clock(const ClockSample& /*sample*/) override {}
  std::vector<Batch> batches;
};

// The peer: nothing is sent once, nothing is relative to what came before.
class Plainest final : public Exporter {
 public:
  Plainest(OutputFile file, const Registry& registry)
      : file_(std::move(file)), registry_(registry), proto_(file_.text()) {}
  void batch(const Batch& batch) override {
    for (const Operation& o : batch.operations) {
      const Signature& s = registry_.signatures()[o.signature];
      slice(batch.rank * 1000 + s.group, label_of(s), o.started, o.completed,
            uint64_t{s.group} << 32 | o.sequence);
    }
    for (const SpanEvent& s : batch.spans) {
      slice(batch.rank * 1000 + 999, registry_.names()[s.name], s.begin, s.end, 0);
    }
    summary_.operations += batch.operations.size();
    summary_.spans += batch.spans.size();
    file_.flush_if_full();
  }
  void unfinished(uint32_t /*rank*/, const RankState& /*state*/) override {}
  Status finish(const std::vector<Verdict>& /*verdicts*/) override {
    const Status status = file_.close();
    summary_.bytes = file_.bytes();
    return status;
  }

 private:
  void slice(uint64_t track, const std::string& name, int64_t begin, int64_t end, uint64_t flow) {
    for (const bool ends : {false, true}) {
      proto_.message(1, [&] {
        proto_.number(8, static_cast<uint64_t>(ends ? end : begin));
        proto_.number(10, 1);
        proto_.message(11, [&] {
          proto_.number(9, ends ? 2 : 1);
          proto_.number(11, track);
          if (ends) return;
          proto_.text(23, name);
          if (flow != 0) proto_.fixed64(47, flow);
        });
      });
    }
  }
  OutputFile file_;
  const Registry& registry_;
  ProtoWriter proto_;
};

struct Figures {
  std::vector<double> slices_per_s;
  double bytes_per_slice = 0;
};

// Of one core, all told: the exporters have no threads.
double core_seconds() {
  timespec now = {};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void report(const char* name, const char* metric, double value, const char* unit, double peer) {
  std::printf(
      "{\"bench\": \"trace.export\", \"case\": \"%s\", \"metric\": \"%s\", \"value\": %.2f, "
      "\"unit\": \"%s\"",
      name, metric, value, unit);
  if (peer > 0) {
    // Of bytes less is better.
    const double ratio = std::string(unit) == "B" ? peer / value : value / peer;
    std::printf(", \"peer\": \"plain packets\", \"peer_value\": %.2f, \"ratio\": %.3f", peer,
                ratio);
  }
  std::printf("}\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fputs("usage: trace_export FOLDER [STEPS]\n", stderr), 64;
  const std::filesystem::path folder = std::filesystem::path(argv[1]) / "trace_export";
  std::filesystem::create_directories(folder);
  SmallJob job;
  job.steps = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1000;
  job.kernels = true;
  Registry registry;
  const Selection selection;
  Survey survey(registry, selection);
  Tape tape;
  job.play(registry, survey);
  job.play(registry, tape);

  using Create = Result<std::unique_ptr<Exporter>> (*)(const std::filesystem::path&,
                                                       const Registry&, const Survey&);
  const std::pair<const char*, Create> formats[] = {
      {"perfetto",
       [](const auto& f, const auto& r, const auto& s) { return create_perfetto(f / "a", r, s); }},
      {"perfetto_uncompressed",
       [](const auto& f, const auto& r, const auto& s) {
         return create_perfetto(f / "b", r, s, {.compress = false});
       }},
      {"plain",
       [](const auto& f, const auto& r, const auto&) -> Result<std::unique_ptr<Exporter>> {
         CONVOY_ASSIGN_OR_RETURN(OutputFile file, OutputFile::create(f / "c"));
         return std::unique_ptr<Exporter>(std::make_unique<Plainest>(std::move(file), r));
       }},
      {"chrome",
       [](const auto& f, const auto& r, const auto& s) { return create_chrome(f / "d", r, s); }},
      {"kineto",
       [](const auto& f, const auto& r, const auto& s) { return create_kineto(f / "e", r, s); }}};
  std::map<std::string, Figures> figures;
  for (int round = 0; round < kRounds; ++round) {
    for (const auto& [name, create] : formats) {
      const auto exporter = create(folder, registry, survey);
      if (!exporter.ok()) {
        std::fprintf(stderr, "trace_export: %s\n", exporter.status().to_string().c_str());
        return 1;
      }
      Aligner aligner(survey, **exporter);
      const double begin = core_seconds();
      for (const Batch& batch : tape.batches) aligner.batch(batch);
      aligner.finish();
      if (!(*exporter)->finish({}).ok()) return 1;
      const double seconds = core_seconds() - begin;
      const ExportSummary& s = (*exporter)->summary();
      const auto slices = static_cast<double>(s.operations + s.spans);
      figures[name].slices_per_s.push_back(slices / seconds);
      figures[name].bytes_per_slice = static_cast<double>(s.bytes) / slices;
    }
  }
  const double plain_bytes = figures["plain"].bytes_per_slice;
  const double plain_speed = median(figures["plain"].slices_per_s) * 1e-6;
  for (const auto& [name, create] : formats) {
    const bool peer = std::string(name) != "plain";
    const Figures& f = figures[name];
    report(name, "bytes_per_slice", f.bytes_per_slice, "B", peer ? plain_bytes : 0);
    report(name, "million_slices_per_s", median(f.slices_per_s) * 1e-6, "M/s",
           peer ? plain_speed : 0);
  }
  std::filesystem::remove_all(folder);
  return 0;
}
