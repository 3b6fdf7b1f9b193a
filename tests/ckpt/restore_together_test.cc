// Method: ranks are threads of this program that talk through an exchange in memory. They load
// random layouts together and compare with the global tensors; the store counts bytes, so a chunk
// that is read twice shows. Then one rank fails, at each stage, and all must say so and name it.
// Sharing out is also checked alone, against a count of each chunk. Not here: an exchange over a
// network.
#include "ckpt/restore/share_reads.h"
#include "tests/ckpt/saved_step.h"
#include "tests/ckpt/thread_exchange.h"
#include <convoy/base/log.h>
#include <convoy/ckpt/load_together.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <thread>

namespace convoy::ckpt {
namespace {

struct Outcome {
  Status status;
  LoadReport report;
  size_t most_sent = 0, most_came = 0, exchanges = 0;
};

// Loads on all ranks; `source` and `options` by rank.
std::vector<Outcome> together(std::vector<Local>& ranks,
                              const std::function<StepSource&(int)>& source,
                              const std::function<LoadOptions(int)>& options) {
  const int size = static_cast<int>(ranks.size());
  Hub hub(size);
  std::vector<Outcome> out(ranks.size());
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      ThreadExchange exchange(hub, r, size);
      Outcome& mine = out[static_cast<size_t>(r)];
      mine.status = load_together(source(r), ranks[static_cast<size_t>(r)].state, exchange,
                                  options(r), &mine.report);
      mine.most_sent = exchange.most_sent;
      mine.most_came = exchange.most_came;
      mine.exchanges = exchange.exchanges;
    });
  }
  for (std::thread& t : threads) t.join();
  return out;
}

Catalog owned(Store& store) {
  Catalog catalog(store, [] { return int64_t{1}; });
  REQUIRE(catalog.take_over({"job", 1, "test"}).ok());
  return catalog;
}

std::vector<Local> locals(const std::vector<Global>& globals, const Layouts& layouts, bool filled) {
  std::vector<Local> ranks;
  for (int r = 0; r < layouts.mesh.size(); ++r) {
    ranks.push_back(local_of(globals, layouts, r, filled));
  }
  return ranks;
}

// The sum of the stored bytes of all distinct chunks that hold bytes of the tensors.
uint64_t stored_bytes(const std::vector<Part>& parts) {
  uint64_t bytes = 0;
  for (const Part& part : parts) {
    for (const Stream& stream : part.streams) {
      for (const Chunk& chunk : stream.chunks) bytes += chunk.bytes;
    }
  }
  return bytes;
}

TEST_CASE("1 to 8 ranks load any layout, and read each chunk once") {
  Random random(99);
  for (int round = 0; round < 60; ++round) {
    INFO("round " << round);
    std::vector<Global> globals;
    for (int64_t i = pick(random, 1, 5); i > 0; --i) {
      globals.push_back(random_global(random, "t" + std::to_string(i)));
    }
    const Layouts from = random_layouts(random, globals, 8);
    const Layouts to = random_layouts(random, globals, 8);
    SaveOptions save;
    const uint32_t sizes[] = {5, 16, 64, 1000};
    save.chunk_bytes = sizes[pick(random, 0, 3)];
    save.compress = round % 2 == 0;
    MemoryStore store;
    Catalog catalog = owned(store);
    std::vector<Part> parts;
    const Commit commit =
        save_step(catalog, store, 1, locals(globals, from, true), save, &parts).value();
    CountingStore counting(store);
    StoreSource source(counting, commit);
    std::vector<Local> ranks = locals(globals, to, false);
    const size_t staging = round % 3 == 0 ? 12 << 10 : size_t{64} << 20;
    const auto out = together(
        ranks, [&](int) -> StepSource& { return source; },
        [&](int r) {
          LoadOptions options;
          options.threads = 1 + r % 3;
          options.staging_bytes_max = save.chunk_bytes == 1000 ? 128 << 10 : staging * 8;
          return options;
        });
    uint64_t read = 0, sent = 0, received = 0;
    for (size_t r = 0; r < ranks.size(); ++r) {
      INFO("rank " << r << ": " << out[r].status.to_string());
      REQUIRE(out[r].status.ok());
      REQUIRE(difference(globals, ranks[r]).empty());
      read += out[r].report.bytes_read;
      sent += out[r].report.bytes_sent;
      received += out[r].report.bytes_received;
    }
    REQUIRE(read == counting.bytes());
    REQUIRE(read <= stored_bytes(parts));
    REQUIRE(sent == received);
  }
}

// A replicated and a cut tensor of 1 MiB each.
struct Fixed {
  std::vector<Global> globals;
  MemoryStore store;
  std::vector<Part> parts;
  Commit commit;

  Fixed() {
    Random random(7);
    globals.push_back({{"a", Dtype::kFloat32, {512, 512}}, random_bytes(random, 1 << 20)});
    globals.push_back({{"b", Dtype::kBFloat16, {1024, 512}}, random_bytes(random, 1 << 20)});
    Catalog catalog = owned(store);
    SaveOptions options;
    options.chunk_bytes = 16 << 10;
    commit =
        save_step(catalog, store, 10, locals(globals, by(4, 0), true), options, &parts).value();
  }
  // "a" by dimension `dim` (−1: whole), "b" by rows.
  Layouts by(int ranks, int dim) const {
    Layouts layouts{Mesh::create({{"dp", ranks}}, ranks, {"dp"}).value(), {}};
    for (const Global& g : globals) {
      ShardSpec spec{.shape = g.info.shape, .dtype_bytes = dtype_bytes(g.info.dtype)};
      const int d = g.info.name == "b" ? 0 : dim;
      if (d >= 0) spec.placements = {{"dp", Placement::shard(d)}};
      layouts.specs.push_back(spec);
    }
    return layouts;
  }
};

TEST_CASE("shared chunks are read once, evenly, and in rounds within the bound") {
  Fixed fixed;
  for (const int size : {1, 2, 3, 4, 8}) {
    for (const int dim : {-1, 1}) {  // whole, and by columns: all want all chunks of "a"
      CountingStore counting(fixed.store);
      StoreSource source(counting, fixed.commit);
      std::vector<Local> ranks = locals(fixed.globals, fixed.by(size, dim), false);
      const size_t staging = size_t{1200} << 10;
      const auto out = together(
          ranks, [&](int) -> StepSource& { return source; },
          [&](int) {
            LoadOptions options;
            options.staging_bytes_max = staging;
            return options;
          });
      uint64_t most = 0, least = ~uint64_t{0};
      for (size_t r = 0; r < ranks.size(); ++r) {
        INFO(out[r].status.to_string());
        REQUIRE(out[r].status.ok());
        REQUIRE(difference(fixed.globals, ranks[r]).empty());
        most = std::max(most, out[r].report.bytes_read);
        least = std::min(least, out[r].report.bytes_read);
        REQUIRE(out[r].most_sent <= staging / 6 + 100);
        REQUIRE(out[r].most_came <= staging / 6 + 100);
        REQUIRE(out[r].report.staging_peak <= staging);
        if (size > 1) REQUIRE(out[r].exchanges > 1);
      }
      // 1,024 rows cut in three make ends that two ranks share; those count once too.
      REQUIRE(counting.bytes() == 2 << 20);
      REQUIRE(most - least <= 32 << 10);
    }
  }
}

// Fails to read from the given chunk of this source on.
class FailingSource final : public FileStepSource {
 public:
  FailingSource(Store& store, Commit commit, int after)
      : FileStepSource("a failing store", std::move(commit), store), store_(store), left_(after) {}

 private:
  Status fetch(const std::string& file, std::span<const ReadRange> ranges,
               const std::shared_ptr<const void>& /*owner*/) override {
    for (const ReadRange& r : ranges) {
      if (left_-- <= 0) return {Code::kDataLoss, "the test's fault in " + file};
      CONVOY_RETURN_IF_ERROR(store_.read_at(file, r.offset, {r.destination, r.bytes}));
    }
    return ok_status();
  }
  Store& store_;
  std::atomic<int> left_;
};

void expect_all(const std::vector<Outcome>& out, Code code, const std::string& text) {
  for (const Outcome& o : out) {
    INFO(o.status.to_string());
    REQUIRE(o.status.code() == code);
    REQUIRE(o.status.message().find(text) != std::string::npos);
  }
}

TEST_CASE("one rank's failure is all ranks' failure and names it") {
  set_log_level(LogLevel::kOff);
  Fixed fixed;
  StoreSource good(fixed.store, fixed.commit);
  const auto options = [](int) {
    LoadOptions o;
    o.staging_bytes_max = 1 << 20;
    return o;
  };
  for (const int size : {2, 4}) {
    for (const int bad : {0, size - 1}) {
      for (const int after : {0, 1, 5, 20, 1000}) {  // while shared chunks are read, and own ones
        FailingSource failing(fixed.store, fixed.commit, after);
        std::vector<Local> ranks = locals(fixed.globals, fixed.by(size, 1), false);
        const auto out = together(
            ranks,
            [&](int r) -> StepSource& {
              return r == bad ? static_cast<StepSource&>(failing) : good;
            },
            options);
        if (after == 1000) {
          for (const Outcome& o : out) REQUIRE(o.status.ok());
          continue;
        }
        expect_all(out, Code::kDataLoss, "rank " + std::to_string(bad));
        expect_all(out, Code::kDataLoss, "the test's fault");
      }
      // A wish that can't be met.
      std::vector<Local> ranks = locals(fixed.globals, fixed.by(size, 1), false);
      ranks[static_cast<size_t>(bad)].state[0].info.name = "unknown";
      auto out = together(
          ranks, [&](int) -> StepSource& { return good; }, options);
      expect_all(out, Code::kNotFound, "rank " + std::to_string(bad));
      expect_all(out, Code::kNotFound, "unknown");
      // Another step.
      Commit other = fixed.commit;
      other.step = 11;
      StoreSource wrong(fixed.store, other);
      ranks = locals(fixed.globals, fixed.by(size, 1), false);
      out = together(
          ranks,
          [&](int r) -> StepSource& { return r == bad ? static_cast<StepSource&>(wrong) : good; },
          options);
      expect_all(out, Code::kMismatch, "another step");
      // Stopped by its own progress callback.
      ranks = locals(fixed.globals, fixed.by(size, 1), false);
      out = together(
          ranks, [&](int) -> StepSource& { return good; },
          [&](int r) {
            LoadOptions o = options(r);
            if (r == bad) o.progress = [](const LoadProgress& p) { return p.bytes < 500000; };
            return o;
          });
      expect_all(out, Code::kAborted, "rank " + std::to_string(bad));
    }
  }
  set_log_level(LogLevel::kInfo);
}

TEST_CASE("sharing out covers each chunk that several want once") {
  Random random(11);
  for (int round = 0; round < 300; ++round) {
    const size_t ranks = static_cast<size_t>(pick(random, 1, 9));
    using Key = std::pair<uint32_t, uint64_t>;
    std::map<Key, std::set<uint32_t>> wanted;
    std::vector<std::vector<ChunkRun>> wants(ranks);
    for (uint32_t r = 0; r < ranks; ++r) {
      for (uint32_t stream = 0; stream < 3; ++stream) {
        uint64_t at = 0;
        while (at < 60) {
          const auto first = at + static_cast<uint64_t>(pick(random, 0, 20));
          const auto count = static_cast<uint64_t>(pick(random, 1, 20));
          wants[r].push_back({0, stream, first, count, 64});
          for (uint64_t c = first; c < first + count; ++c) wanted[{stream, c}].insert(r);
          at = first + count + 1;
        }
      }
    }
    const auto runs = share_reads(wants);
    const uint64_t most = static_cast<uint64_t>(pick(random, 1, 40)) * 64;
    std::map<Key, std::set<uint32_t>> got;
    for (const auto& rounds : plan_rounds(runs, ranks, most)) {
      std::vector<uint64_t> sent(ranks, 0), received(ranks, 0);
      REQUIRE_FALSE(rounds.empty());
      for (const SharedRun& run : rounds) {
        for (uint64_t c = 0; c < run.chunks.count; ++c) {
          auto& who = got[{run.chunks.stream, run.chunks.first + c}];
          REQUIRE(who.empty());
          who.insert(run.takers.begin(), run.takers.end());
          REQUIRE(who.insert(run.reader).second);
        }
        sent[run.reader] += run.chunks.bytes() * run.takers.size();
        for (const uint32_t taker : run.takers) received[taker] += run.chunks.bytes();
      }
      const bool single = rounds.size() == 1 && rounds[0].chunks.count == 1;
      for (size_t r = 0; r < ranks && !single; ++r) {
        REQUIRE(sent[r] <= std::max<uint64_t>(most, 64 * ranks));
        REQUIRE(received[r] <= std::max<uint64_t>(most, 64));
      }
    }
    std::erase_if(wanted, [](const auto& w) { return w.second.size() < 2; });
    REQUIRE(got == wanted);
  }
}

}  // namespace
}  // namespace convoy::ckpt
