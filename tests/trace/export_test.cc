// What exports are made of: lanes in which slices nest, selection and one time base, when a rank
// computes. What comes out in each format is checked by export_check.py, with the tools that read
// it.
#include "tests/trace/small_job.h"
#include "trace/export/compute_pieces.h"
#include "trace/export/tracks.h"
#include <convoy/trace/export.h>

#include <catch2/catch.hpp>

#include <random>
#include <vector>

using namespace convoy;
using namespace convoy::trace;

namespace {

// Checks that in each lane times never go back and slices nest; counts.
class Nesting final : public LaneWriter {
 public:
  void open(const Lane& lane) override {
    REQUIRE(lane.number == lanes_.size());
    lanes_.emplace_back();
  }
  void begin(const Lane& lane, const Slice& slice) override {
    One& one = lanes_[lane.number];
    REQUIRE(slice.begin >= one.at);
    if (!one.ends.empty()) REQUIRE(slice.end <= one.ends.back());
    one.at = slice.begin;
    ++begun;
    if (slice.end > slice.begin) one.ends.push_back(slice.end);
  }
  void end(const Lane& lane, int64_t time) override {
    One& one = lanes_[lane.number];
    REQUIRE(!one.ends.empty());
    REQUIRE(time == one.ends.back());
    REQUIRE(time >= one.at);
    one.at = time;
    one.ends.pop_back();
  }
  size_t lanes() const { return lanes_.size(); }
  size_t open_ends() const {
    size_t n = 0;
    for (const One& one : lanes_) n += one.ends.size();
    return n;
  }
  size_t begun = 0;

 private:
  struct One {
    int64_t at = INT64_MIN;
    std::vector<int64_t> ends;
  };
  std::vector<One> lanes_;
};

Slice slice(int64_t begin, int64_t end) {
  Slice s;
  s.begin = begin;
  s.end = end;
  return s;
}

struct Collect final : Exporter {
  void batch(const Batch& batch) override { batches.push_back(batch); }
  void unfinished(uint32_t /*rank*/, const RankState& state) override { states.push_back(state); }
  Status finish(const std::vector<Verdict>& /*verdicts*/) override { return ok_status(); }
  std::vector<Batch> batches;
  std::vector<RankState> states;
};

Collect exported(const SmallJob& job, const Selection& selection) {
  Registry registry;
  Survey survey(registry, selection);
  job.play(registry, survey);
  Collect out;
  Aligner aligner(survey, out);
  job.play(registry, aligner);
  aligner.finish();
  return out;
}

}  // namespace

TEST_CASE("slices of a thread stay in one lane, however late the outer ones come") {
  Nesting nesting;
  Tracks tracks(nesting);
  tracks.add({}, slice(10, 20));
  tracks.add({}, slice(20, 30));
  tracks.add({}, slice(12, 15));
  tracks.add({}, slice(10, 30));
  tracks.finish();
  CHECK(nesting.lanes() == 1);
  CHECK(nesting.begun == 4);
  CHECK(nesting.open_ends() == 0);
}

TEST_CASE("slices that overlap go into lanes of their own") {
  Nesting nesting;
  Tracks tracks(nesting);
  tracks.add({}, slice(0, 10));
  tracks.add({}, slice(5, 15));
  tracks.add({}, slice(12, 20));
  tracks.finish();
  CHECK(nesting.lanes() == 2);
}

TEST_CASE("random slices nest in their lanes, with little memory, too") {
  std::mt19937_64 random(7);
  for (const size_t waiting : {size_t{8}, size_t{100}, size_t{1} << 20}) {
    Nesting nesting;
    Tracks tracks(nesting, waiting);
    for (int i = 0; i < 3000; ++i) {
      const auto begin = static_cast<int64_t>(random() % 1000 + i);
      const auto length = static_cast<int64_t>(random() % 50);
      tracks.add({static_cast<uint32_t>(random() % 3), TrackKind::kThread, 0},
                 slice(begin, begin + length));
    }
    tracks.add({}, slice(4000, Slice::kUnfinished));
    tracks.finish();
    CHECK(nesting.begun == 3001);
    CHECK(nesting.open_ends() == 1);  // the unfinished one
  }
}

TEST_CASE("all ranks' events stand on the root's clock") {
  const SmallJob job;
  const Collect all = exported(job, {});
  size_t spans = 0;
  for (const Batch& batch : all.batches) {
    for (const SpanEvent& s : batch.spans) {
      CHECK(s.begin >= SmallJob::kStart);
      CHECK(s.end < SmallJob::kStart + 1'000'000'000);
      ++spans;
    }
  }
  CHECK(spans > 100);
}

TEST_CASE("ranks, steps and seconds are selected") {
  const SmallJob job;
  Selection selection;
  selection.ranks = {{0, 1}, {7, 7}};
  selection.steps = {2, 3};
  size_t operations = 0;
  for (const Batch& batch : exported(job, selection).batches) {
    CHECK((batch.rank <= 1 || batch.rank == 7));
    operations += batch.operations.size();
  }
  const size_t each = job.micro_batches * 2 /*passes*/ * 2 /*sum, message*/ + job.micro_batches;
  // Gradient sums that reach over a step's end belong to both.
  CHECK(operations >= 3 * 2 * each);
  CHECK(operations <= 3 * (2 * each + 2));

  selection = {};
  selection.seconds = {0.0, 0.0005};
  for (const Batch& batch : exported(job, selection).batches) {
    for (const SpanEvent& s : batch.spans) CHECK(s.begin < SmallJob::kStart + 500'000);
  }
  CHECK(parse_ranges("--ranks", "0-3,8").ok());
  for (const char* bad : {"", "a", "3-1", "1,", "1-", "-1", "1;2"}) {
    CHECK(parse_ranges("--ranks", bad).status().code() == Code::kInvalidArgument);
  }
}

TEST_CASE("what had not ended is handed over") {
  SmallJob job;
  job.hangs = true;
  const Collect all = exported(job, {});
  REQUIRE(all.states.size() == job.world_size());
  for (const RankState& state : all.states) {
    CHECK(state.pending.size() == 1);
    CHECK(state.open.size() == 2);
    CHECK(state.open[0].begin < SmallJob::kStart + 10'000'000'000);
  }
}

TEST_CASE("a rank computes in its passes but where it awaits a neighbour, or in kernels") {
  Registry registry;
  const auto span = [&](const char* name, int64_t begin, int64_t end) {
    return SpanEvent{registry.name(name), 0, begin, end, 0};
  };
  using Pieces = std::vector<std::pair<int64_t, int64_t>>;
  ComputePieces pieces(registry);
  CHECK(pieces.of(span(names::kAwaitStage, 10, 30)).empty());
  CHECK(pieces.of(span(names::kAwaitStage, 50, 60)).empty());
  CHECK(pieces.of(span(names::kForward, 10, 100)) == Pieces{{30, 50}, {60, 100}});
  CHECK(pieces.of(span(names::kBackward, 100, 120)) == Pieces{{100, 120}});
  CHECK(pieces.of(span(names::kStep, 0, 200)).empty());
  CHECK(pieces.of(span(names::kKernel, 130, 140)) == Pieces{{130, 140}});
  CHECK(pieces.of(span(names::kForward, 125, 150)).empty());
}
