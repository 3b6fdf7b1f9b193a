#include "src/cli/trace_stream.h"

#include "src/cli/progress.h"
#include <convoy/trace/replay.h>
#include <convoy/trace/stream.h>

#include <cstdio>
#include <system_error>

namespace convoy::cli {
namespace {

// Hands everything to two sinks.
class Both final : public trace::Sink {
 public:
  Both(Sink& first, Sink& second) : first_(first), second_(second) {}
  void job(const trace::JobInfo& job) override {
    first_.job(job);
    second_.job(job);
  }
  void batch(const trace::Batch& batch) override {
    first_.batch(batch);
    second_.batch(batch);
  }
  void clock(const trace::ClockSample& sample) override {
    first_.clock(sample);
    second_.clock(sample);
  }

 private:
  Sink& first_;
  Sink& second_;
};

}  // namespace

Result<std::unique_ptr<StreamFile>> survey_stream(const std::string& path,
                                                  trace::Selection selection) {
  auto stream = std::make_unique<StreamFile>();
  stream->path = path;
  stream->selection = std::move(selection);
  stream->survey = std::make_unique<trace::Survey>(stream->registry, stream->selection);
  trace::Diagnosing diagnosing(stream->registry);
  Both both(*stream->survey, diagnosing);
  stream->damage = trace::read_stream(path, stream->registry, both, &stream->truncated);
  if (stream->survey->batches() == 0) {
    if (!stream->damage.ok()) return stream->damage;
    return Status(Code::kDataLoss, path + " holds no events of any rank");
  }
  diagnosing.finish(stream->survey->bounds().second);
  stream->verdicts = diagnosing.diagnoser().verdicts();
  if (!stream->damage.ok()) {
    std::fprintf(stderr, "convoy: %s. What stands before is used.\n",
                 stream->damage.message().c_str());
  } else if (stream->truncated) {
    std::fprintf(stderr, "convoy: %s ends in the middle of a frame; all before it is used.\n",
                 path.c_str());
  }
  return stream;
}

Status export_stream(StreamFile& stream, trace::Exporter& to) {
  std::error_code ignored;
  const uint64_t size = std::filesystem::file_size(stream.path, ignored);
  const uint64_t batches = stream.survey->batches();
  Progress progress("exported");
  trace::Aligner aligner(*stream.survey, to, [&](uint64_t done) {
    progress.show(static_cast<uint64_t>(static_cast<double>(size) * static_cast<double>(done) /
                                        static_cast<double>(batches)),
                  size);
  });
  // Damage was told after the first reading.
  const Status again = trace::read_stream(stream.path, stream.registry, aligner);
  if (!again.ok() && stream.damage.ok()) return again;
  aligner.finish();
  const Status status = to.finish(stream.verdicts);
  progress.end();
  return status;
}

}  // namespace convoy::cli
