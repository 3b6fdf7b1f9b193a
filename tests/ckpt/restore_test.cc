// Method: global tensors with random content are cut by the slow rules of random_layout.h for one
// random mesh, saved, loaded for another random mesh from every kind of source, and compared
// element by element with the global ones. Then faults are put into the files, each region in turn:
// the load must find and name them, be mended from a second source, or fall back to the older step.
// What is read is counted by the store. Not here: conversions' values (restore_convert_test.cc),
// several ranks together (restore_together_test.cc), the engine's own faults (disk_test.cc).
#include "tests/ckpt/saved_step.h"
#include "tests/temp_folder.h"
#include <convoy/base/log.h>
#include <convoy/ckpt/restore.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;

Catalog owned(Store& store) {
  Catalog catalog(store, [] { return int64_t{1}; });
  REQUIRE(catalog.take_over({"job", 1, "test"}).ok());
  return catalog;
}

std::vector<Global> random_globals(Random& random) {
  std::vector<Global> globals;
  const int64_t count = pick(random, 1, 8);
  for (int64_t i = 0; i < count; ++i) {
    globals.push_back(random_global(random, "t" + std::to_string(i)));
  }
  return globals;
}

std::vector<Local> locals(const std::vector<Global>& globals, const Layouts& layouts, bool filled) {
  std::vector<Local> ranks;
  for (int r = 0; r < layouts.mesh.size(); ++r) {
    ranks.push_back(local_of(globals, layouts, r, filled));
  }
  return ranks;
}

SaveOptions random_save(Random& random) {
  SaveOptions options;
  const uint32_t sizes[] = {1, 3, 7, 16, 64, 100, 4096, static_cast<uint32_t>(kChunkBytes)};
  options.chunk_bytes = sizes[pick(random, 0, 7)];
  options.ranks_per_node = static_cast<int>(pick(random, 1, 4));
  options.skew = static_cast<size_t>(pick(random, 0, 1) * pick(random, 0, 9));
  options.compress = pick(random, 0, 1) == 1;
  options.files = static_cast<int>(pick(random, 1, 3));
  return options;
}

LoadOptions random_load(Random& random) {
  LoadOptions options;
  options.threads = static_cast<int>(pick(random, 1, 4));
  options.in_place = pick(random, 0, 1) == 1;
  if (pick(random, 0, 1) == 1) options.staging_bytes_max = size_t{1} << 20;
  return options;
}

std::unique_ptr<ArenaSource> arena_source(const std::vector<Local>& ranks, const Commit& commit,
                                          SaveOptions options) {
  struct Memory {
    std::vector<std::vector<std::byte>> bytes;
  };
  Streams streams = streams_of(ranks, commit.step, options);
  std::vector<Snapshot> snapshots;
  for (size_t n = 0; n < streams.parts.size(); ++n) {
    const auto memory = std::make_shared<Memory>(Memory{std::move(streams.bytes[n])});
    Snapshot snapshot{std::move(streams.parts[n]), {}, memory};
    for (const auto& bytes : memory->bytes) snapshot.streams.emplace_back(bytes);
    snapshots.push_back(std::move(snapshot));
  }
  Commit head;
  head.step = commit.step;
  head.claim = commit.claim;
  return ArenaSource::create("memory", head, std::move(snapshots)).value();
}

void load_all(StepSource& source, const std::vector<Global>& globals, const Layouts& to,
              Random& random) {
  for (int r = 0; r < to.mesh.size(); ++r) {
    Local rank = local_of(globals, to, r, false);
    const LoadOptions options = random_load(random);
    LoadReport report;
    const Status status = load(source, rank.state, options, &report);
    INFO(source.name() << " rank " << r << ": " << status.to_string());
    REQUIRE(status.ok());
    REQUIRE(difference(globals, rank).empty());
    REQUIRE(report.staging_peak <= options.staging_bytes_max);
  }
}

TEST_CASE("any layout loads from any other, from every source") {
  Random random(20261125);
  const auto engine = DiskEngine::create().value();
  for (int round = 0; round < 120; ++round) {
    INFO("round " << round);
    std::vector<Global> globals = random_globals(random);
    const Layouts from = random_layouts(random, globals, 8);
    const Layouts to = random_layouts(random, globals, 8);
    const SaveOptions options = random_save(random);
    const std::vector<Local> saved = locals(globals, from, true);
    MemoryStore store;
    Catalog catalog = owned(store);
    const Commit commit = save_step(catalog, store, 10, saved, options).value();
    StoreSource stored(store, commit);
    load_all(stored, globals, to, random);
    load_all(*arena_source(saved, commit, options), globals, to, random);
    if (round % 6 != 0) continue;
    const TempFolder folder;
    const auto disk = open_local_store(folder.path()).value();
    Catalog local = owned(*disk);
    const Commit there = save_step(local, *disk, 10, saved, options).value();
    load_all(*FolderSource::create(folder.path(), there, engine).value(), globals, to, random);
  }
}

TEST_CASE("chunks of an older step's files are read from there") {
  Random random(3);
  std::vector<Global> globals = random_globals(random);
  globals.push_back({{"w", Dtype::kFloat32, {100, 30}}, random_bytes(random, 12000)});
  const Layouts from = random_layouts(random, globals, 6);
  const Layouts to = random_layouts(random, globals, 6);
  MemoryStore store;
  Catalog catalog = owned(store);
  SaveOptions options;
  options.chunk_bytes = 512;
  std::vector<Part> parts;
  REQUIRE(save_step(catalog, store, 10, locals(globals, from, true), options, &parts).ok());
  for (size_t i = 0; i < 40; ++i) globals.back().bytes[5000 + i] ^= std::byte{0xff};
  options.base = parts;
  const Commit commit = save_step(catalog, store, 20, locals(globals, from, true), options).value();
  REQUIRE(commit.steps == std::vector<uint64_t>{10, 20});
  StoreSource source(store, commit);
  load_all(source, globals, to, random);
}

// Two tensors of 1 MiB on 4 ranks by rows, and what goes with them.
struct Fixed {
  std::vector<Global> globals;
  MemoryStore store;
  std::vector<Local> saved;
  std::vector<Part> parts;
  Commit commit;
  static constexpr uint32_t kChunk = 16 << 10;

  explicit Fixed(bool compress = false) {
    Random random(7);
    globals.push_back({{"a", Dtype::kFloat32, {512, 512}}, random_bytes(random, 1 << 20)});
    globals.push_back({{"b", Dtype::kBFloat16, {1024, 512}}, random_bytes(random, 1 << 20)});
    if (compress) {
      for (Global& g : globals) {
        for (std::byte& b : g.bytes) b &= std::byte{7};
      }
    }
    saved = locals(globals, rows(4), true);
    Catalog catalog = owned(store);
    commit = save_step(catalog, store, 10, saved, options(compress), &parts).value();
    REQUIRE((parts[0].streams[0].chunks[0].codec == Codec::kZstd) == compress);
  }
  static SaveOptions options(bool compress = false) {
    SaveOptions options;
    options.chunk_bytes = kChunk;
    options.compress = compress;
    return options;
  }
  Layouts by(int ranks, int dim) const {
    Layouts layouts{Mesh::create({{"dp", ranks}}, ranks, {"dp"}).value(), {}};
    for (const Global& g : globals) {
      layouts.specs.push_back({.shape = g.info.shape,
                               .dtype_bytes = dtype_bytes(g.info.dtype),
                               .placements = {{"dp", Placement::shard(dim)}}});
    }
    return layouts;
  }
  Layouts rows(int ranks) const { return by(ranks, 0); }
  Layouts columns(int ranks) const { return by(ranks, 1); }
};

TEST_CASE("a load reads the chunks that it needs, once") {
  Fixed fixed;
  CountingStore counting(fixed.store);
  StoreSource source(counting, fixed.commit);
  uint64_t before = 0;
  for (const int ranks : {1, 2, 4, 8}) {
    for (int r = 0; r < ranks; ++r) {
      Local rank = local_of(fixed.globals, fixed.rows(ranks), r, false);
      LoadReport report;
      REQUIRE(load(source, rank.state, {}, &report).ok());
      REQUIRE(difference(fixed.globals, rank).empty());
      REQUIRE(report.bytes_wanted == (2u << 20) / static_cast<unsigned>(ranks));
      REQUIRE(report.bytes_read == report.bytes_wanted);  // all cuts are at chunks
      REQUIRE(counting.bytes() - before == report.bytes_read);
      REQUIRE(report.chunks == report.bytes_read / Fixed::kChunk);
      REQUIRE(report.chunks_in_place == report.chunks);
      REQUIRE(report.staging_peak == 0);
      before = counting.bytes();
    }
  }
  // One row of one tensor: one chunk.
  std::vector<std::byte> row(2048);
  const State wanted{{fixed.globals[0].info, {{{100, 0}, {1, 512}, row.data(), {512, 1}}}}};
  LoadReport report;
  REQUIRE(load(source, wanted, {}, &report).ok());
  REQUIRE(std::memcmp(row.data(), &fixed.globals[0].bytes[100 * 2048], 2048) == 0);
  REQUIRE(report.chunks == 1);
  REQUIRE(counting.bytes() - before == Fixed::kChunk);
}

TEST_CASE("destinations may be strided, transposed and reversed") {
  Fixed fixed;
  StoreSource source(fixed.store, fixed.commit);
  const size_t n = 512;
  std::vector<float> out(n * n);
  const auto* truth = reinterpret_cast<const uint32_t*>(fixed.globals[0].bytes.data());
  const auto at = [&](size_t i) {
    uint32_t bits = 0;
    std::memcpy(&bits, &out[i], 4);
    return bits;
  };
  auto* memory = reinterpret_cast<std::byte*>(out.data());
  const auto info = fixed.globals[0].info;
  REQUIRE(load(source, {{info, {{{0, 0}, {512, 512}, memory, {1, 512}}}}}).ok());
  bool same = true;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) same = same && at(j * n + i) == truth[i * n + j];
  }
  REQUIRE(same);
  std::byte* last = memory + 4 * (n * n - 1);
  REQUIRE(load(source, {{info, {{{0, 0}, {512, 512}, last, {-512, -1}}}}}).ok());
  for (size_t i = 0; i < n * n; ++i) same = same && at(n * n - 1 - i) == truth[i];
  REQUIRE(same);
}

TEST_CASE("dtypes are converted, across chunk borders too") {
  Random random(5);
  for (const uint32_t chunk : {1U, 3U, 6U, 64U, 16384U}) {
    std::vector<Global> globals = {{{"x", Dtype::kFloat32, {40, 30}}, {}},
                                   {{"i", Dtype::kInt16, {77}}, {}}};
    std::vector<float> x(1200);
    for (float& v : x) v = static_cast<float>(pick(random, -1000, 1000)) / 8;
    std::vector<int16_t> whole(77);
    for (int16_t& v : whole) v = static_cast<int16_t>(pick(random, -30000, 30000));
    globals[0].bytes.resize(4800);
    std::memcpy(globals[0].bytes.data(), x.data(), 4800);
    globals[1].bytes.resize(154);
    std::memcpy(globals[1].bytes.data(), whole.data(), 154);
    MemoryStore store;
    Catalog catalog = owned(store);
    SaveOptions options;
    options.chunk_bytes = chunk;
    options.skew = 1;
    const Layouts from = random_layouts(random, globals, 4);
    StoreSource source(store,
                       save_step(catalog, store, 1, locals(globals, from, true), options).value());
    std::vector<double> y(1200);
    std::vector<int64_t> z(77);
    State wanted{
        {{"x", Dtype::kFloat64, {40, 30}},
         {{{0, 0}, {40, 30}, reinterpret_cast<std::byte*>(y.data()), {1, 40}}}},  // transposed
        {{"i", Dtype::kInt64, {77}}, {{{0}, {77}, reinterpret_cast<std::byte*>(z.data()), {1}}}}};
    const Status status = load(source, wanted);
    INFO(status.to_string() << " chunks of " << chunk);
    REQUIRE(status.ok());
    for (size_t i = 0; i < 1200; ++i) {
      REQUIRE(y[i % 30 * 40 + i / 30] == static_cast<double>(x[i]));
    }
    REQUIRE(std::equal(z.begin(), z.end(), whole.begin()));
    wanted[1].info.dtype = Dtype::kInt8;
    const Status narrow = load(source, wanted);
    REQUIRE(narrow.code() == Code::kInvalidArgument);
    REQUIRE(narrow.message().find("int16") != std::string::npos);
    REQUIRE(narrow.message().find("int8") != std::string::npos);
    REQUIRE(narrow.message().find("tensor i") != std::string::npos);
  }
}

TEST_CASE("what the step lacks is named before anything is read") {
  Fixed fixed;
  // Rank 3's part of "a" and all of "b" are in nobody's stream.
  std::vector<Local> some = locals(fixed.globals, fixed.rows(4), true);
  some[3].state[0].boxes.clear();
  for (Local& rank : some) rank.state.pop_back();
  Catalog catalog = owned(fixed.store);
  const Commit commit = save_step(catalog, fixed.store, 20, some, Fixed::options()).value();
  CountingStore counting(fixed.store);
  StoreSource source(counting, commit);
  Local rank = local_of(fixed.globals, fixed.columns(2), 1, false);
  LoadReport report;
  Status status = load(source, rank.state, {}, &report);
  REQUIRE(status.code() == Code::kNotFound);
  REQUIRE(status.message().find("a [384:512, 256:512]") != std::string::npos);
  REQUIRE(status.message().find("b") != std::string::npos);
  REQUIRE(report.missing.size() == 2);
  REQUIRE(counting.calls() == 0);
  LoadOptions skip;
  skip.skip_missing = true;
  status = load(source, rank.state, skip, &report);  // a part of "a" is still missing
  REQUIRE(status.code() == Code::kNotFound);
  REQUIRE(counting.calls() == 0);
  Local first = local_of(fixed.globals, fixed.rows(4), 0, false);
  REQUIRE(load(source, first.state, skip, &report).ok());
  REQUIRE(report.missing.size() == 1);
  REQUIRE(report.missing[0].name == "b");
  REQUIRE(first.memory[0] == fixed.saved[0].memory[0]);
  REQUIRE(first.memory[1][0] == std::byte{0xee});

  State other = first.state;
  other[0].info.shape = {512, 513};
  status = load(source, other, skip);
  REQUIRE(status.code() == Code::kInvalidArgument);
  REQUIRE(status.message().find("[512, 512]") != std::string::npos);
  REQUIRE(status.message().find("[512, 513]") != std::string::npos);
}

TEST_CASE("staging keeps to its bound, and progress counts up and stops") {
  for (const bool compress : {false, true}) {
    Fixed fixed(compress);
    StoreSource source(fixed.store, fixed.commit);
    Local rank = local_of(fixed.globals, fixed.columns(2), 0, false);
    for (const size_t most : {size_t{40} << 10, size_t{100} << 10, size_t{64} << 20}) {
      LoadOptions options;
      options.staging_bytes_max = most;
      LoadReport report;
      uint64_t seen = 0;
      options.progress = [&](const LoadProgress& p) {
        seen = std::max(seen, p.bytes);
        return p.bytes <= p.bytes_total;
      };
      REQUIRE(load(source, rank.state, options, &report).ok());
      REQUIRE(difference(fixed.globals, rank).empty());
      REQUIRE(report.staging_peak > 0);
      REQUIRE(report.staging_peak <= most);
      REQUIRE(seen == 2 << 20);  // of columns, every chunk is needed
    }
    LoadOptions small;
    small.staging_bytes_max = Fixed::kChunk - 1;
    REQUIRE(load(source, rank.state, small).code() == Code::kInvalidArgument);
    LoadOptions stop;
    stop.progress = [](const LoadProgress&) { return false; };
    REQUIRE(load(source, rank.state, stop).code() == Code::kAborted);
    LoadOptions none;
    none.threads = 0;
    REQUIRE(load(source, rank.state, none).code() == Code::kInvalidArgument);
  }
}

void flip(Store& store, const std::string& path, uint64_t at) {
  auto bytes = store.get(path, 1 << 30).value();
  bytes[at] ^= std::byte{1};
  REQUIRE(store.put(path, bytes).ok());
}

OpenStep opener(Store& store) {
  return [&store](const Commit& commit) -> Result<std::vector<std::unique_ptr<StepSource>>> {
    std::vector<std::unique_ptr<StepSource>> sources;
    sources.push_back(std::make_unique<StoreSource>(store, commit));
    return sources;
  };
}

TEST_CASE("a bad chunk is found in every region, named, mended, and else an older step is loaded") {
  set_log_level(LogLevel::kOff);
  for (const bool compress : {false, true}) {
    Fixed fixed(compress);
    std::vector<Global> newer = fixed.globals;
    for (Global& g : newer) {
      for (std::byte& b : g.bytes) b ^= std::byte{0x55};
    }
    Catalog catalog = owned(fixed.store);
    std::vector<Part> parts;
    const std::vector<Local> saved = locals(newer, fixed.rows(4), true);
    const Commit commit =
        save_step(catalog, fixed.store, 20, saved, Fixed::options(compress), &parts).value();
    const auto arena = arena_source(saved, commit, Fixed::options());
    for (const Part& part : parts) {
      for (const Stream& stream : part.streams) {
        for (size_t i = 0; i < stream.chunks.size(); i += 5) {
          const Chunk& chunk = stream.chunks[i];
          const std::string& file = part.files[chunk.file].path;
          const uint64_t at = chunk.offset + (i * 977) % chunk.bytes;
          flip(fixed.store, file, at);
          const bool in_place = i % 2 == 0;
          const Layouts to = in_place ? fixed.rows(1) : fixed.columns(1);
          Local rank = local_of(newer, to, 0, false);
          LoadOptions options;
          options.in_place = in_place;
          StoreSource source(fixed.store, commit);
          const Status status = load(source, rank.state, options);
          INFO(status.to_string());
          REQUIRE(status.code() == Code::kDataLoss);
          REQUIRE(status.message().find("tensor " + std::string(i < 16 ? "a" : "b")) !=
                  std::string::npos);
          REQUIRE(status.message().find(file + " at " + std::to_string(chunk.offset)) !=
                  std::string::npos);

          LoadReport report;
          const Result<Commit> old =
              load_newest(catalog, opener(fixed.store), rank.state, options, &report);
          REQUIRE(old.ok());
          REQUIRE(old->step == 10);
          REQUIRE(report.passed_over.size() == 1);
          REQUIRE(report.passed_over[0].first.step == 20);
          REQUIRE(difference(fixed.globals, rank).empty());

          options.other_sources = {arena.get()};
          REQUIRE(load(source, rank.state, options, &report).ok());
          REQUIRE(report.mended.size() == 1);
          REQUIRE(difference(newer, rank).empty());
          REQUIRE(load_newest(catalog, opener(fixed.store), rank.state, options, &report)->step ==
                  20);
          REQUIRE(report.passed_over.empty());
          flip(fixed.store, file, at);
        }
      }
    }
  }
  set_log_level(LogLevel::kInfo);
}

TEST_CASE("a flipped bit in memory is found, and mended from the folder") {
  set_log_level(LogLevel::kOff);
  Fixed fixed;
  Streams streams = streams_of(fixed.saved, 10, Fixed::options());
  std::vector<Snapshot> snapshots;
  for (size_t n = 0; n < streams.parts.size(); ++n) {
    Snapshot snapshot{streams.parts[n], {}, nullptr};
    for (const auto& bytes : streams.bytes[n]) snapshot.streams.emplace_back(bytes);
    snapshots.push_back(std::move(snapshot));
  }
  Commit head;
  head.step = 10;
  head.claim = fixed.commit.claim;
  const auto arena = ArenaSource::create("memory", head, snapshots).value();
  StoreSource folder(fixed.store, fixed.commit);
  for (const bool in_place : {true, false}) {
    for (size_t at = 0; at < streams.bytes[0][0].size(); at += 70001) {
      streams.bytes[0][0][at] ^= std::byte{4};
      Local rank = local_of(fixed.globals, fixed.rows(1), 0, false);
      LoadOptions options;
      options.in_place = in_place;
      const Status status = load(*arena, rank.state, options);
      REQUIRE(status.code() == Code::kDataLoss);
      REQUIRE(status.message().find("memory of node 0 at") != std::string::npos);
      options.other_sources = {&folder};
      LoadReport report;
      REQUIRE(load(*arena, rank.state, options, &report).ok());
      REQUIRE(report.mended.size() == 1);
      REQUIRE(difference(fixed.globals, rank).empty());
      streams.bytes[0][0][at] ^= std::byte{4};
    }
  }
  set_log_level(LogLevel::kInfo);
}

TEST_CASE("truncated and missing files, damaged parts and commit records") {
  set_log_level(LogLevel::kOff);
  const auto engine = DiskEngine::create().value();
  Fixed fixed;
  const TempFolder folder;
  const auto disk = open_local_store(folder.path()).value();
  Catalog catalog = owned(*disk);
  REQUIRE(save_step(catalog, *disk, 10, fixed.saved, Fixed::options()).ok());
  std::vector<Part> parts;
  const Commit commit =
      save_step(catalog, *disk, 20, fixed.saved, Fixed::options(), &parts).value();
  const std::string data = folder.path() + "/" + parts[1].files[0].path;
  const auto open = [&](const Commit& c) -> Result<std::vector<std::unique_ptr<StepSource>>> {
    std::vector<std::unique_ptr<StepSource>> sources;
    CONVOY_ASSIGN_OR_RETURN(auto source, FolderSource::create(folder.path(), c, engine));
    sources.push_back(std::move(source));
    return sources;
  };
  const auto expect = [&](const std::string& name) {
    Local rank = local_of(fixed.globals, fixed.columns(2), 0, false);
    LoadReport report;
    const Result<Commit> loaded = load_newest(catalog, open, rank.state, {}, &report);
    INFO(loaded.status().to_string());
    REQUIRE(loaded.ok());
    REQUIRE(loaded->step == 10);
    REQUIRE(report.passed_over.size() == 1);
    REQUIRE(report.passed_over[0].second.code() == Code::kDataLoss);
    INFO(report.passed_over[0].second.message());
    REQUIRE(report.passed_over[0].second.message().find(name) != std::string::npos);
    REQUIRE(difference(fixed.globals, rank).empty());
  };
  fs::copy_file(data, data + ".whole");
  fs::resize_file(data, 100000);
  expect(parts[1].files[0].path);
  {  // what is whole is still loaded: node 0's half
    Local rank = local_of(fixed.globals, fixed.rows(2), 0, false);
    REQUIRE(load_newest(catalog, open, rank.state)->step == 20);
    REQUIRE(difference(fixed.globals, rank).empty());
  }
  fs::remove(data);
  expect(parts[1].files[0].path);
  {  // and another copy of the step mends it
    MemoryStore copy;
    const std::vector<StoreEntry> entries = disk->list("").value();
    for (const StoreEntry& entry : entries) {
      REQUIRE(copy.put(entry.path, disk->get(entry.path, 1 << 30).value()).ok());
    }
    std::ifstream in(data + ".whole", std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    REQUIRE(
        copy.put(parts[1].files[0].path, std::as_bytes(std::span(text.data(), text.size()))).ok());
    StoreSource other(copy, commit);
    LoadOptions options;
    options.other_sources = {&other};
    Local rank = local_of(fixed.globals, fixed.columns(2), 0, false);
    LoadReport report;
    REQUIRE(load_newest(catalog, open, rank.state, options, &report)->step == 20);
    REQUIRE(report.mended.size() == 64);
    REQUIRE(difference(fixed.globals, rank).empty());
    // A part's record that is damaged here is whole there.
    fs::resize_file(folder.path() + "/" + commit.parts[1].path, 50);
    REQUIRE(load_newest(catalog, open, rank.state, options, &report)->step == 20);
    REQUIRE(report.mended.empty());
    REQUIRE(difference(fixed.globals, rank).empty());
  }
  fs::rename(data + ".whole", data);
  expect(commit.parts[1].path);
  flip(*disk, "commits/s000000000020-c00000001", 60);
  expect("commits/s000000000020-c00000001");
  flip(*disk, "commits/s000000000010-c00000001", 60);
  Local rank = local_of(fixed.globals, fixed.columns(2), 0, false);
  REQUIRE(load_newest(catalog, open, rank.state).status().code() == Code::kDataLoss);
  MemoryStore empty;
  Catalog nothing(empty);
  REQUIRE(load_newest(nothing, open, rank.state).status().code() == Code::kNotFound);
  set_log_level(LogLevel::kInfo);
}

// A store whose disk has stopped answering.
class StuckSource final : public FileStepSource {
 public:
  StuckSource(Store& store, Commit commit) : FileStepSource("stuck", std::move(commit), store) {}

 private:
  Status fetch(const std::string& /*file*/, std::span<const ReadRange> /*ranges*/,
               const std::shared_ptr<const void>& owner) override {
    late = owner;
    return {Code::kDeadlineExceeded, "no answer"};
  }
  std::shared_ptr<const void> late;  // as an engine holds it for the kernel
};

TEST_CASE("a disk that does not answer ends the load, and keeps the memory") {
  Fixed fixed;
  Catalog catalog = owned(fixed.store);
  REQUIRE(save_step(catalog, fixed.store, 20, fixed.saved, Fixed::options()).ok());
  StoreSource good(fixed.store, fixed.commit);
  for (const bool in_place : {true, false}) {
    auto alive = std::make_shared<int>(1);
    LoadOptions options;
    options.in_place = in_place;
    options.threads = 1;
    options.owner = alive;
    options.other_sources = {&good};
    Local rank = local_of(fixed.globals, fixed.rows(1), 0, false);
    {
      StuckSource stuck(fixed.store, fixed.commit);
      LoadReport report;
      REQUIRE(load(stuck, rank.state, options, &report).code() == Code::kDeadlineExceeded);
      REQUIRE(report.mended.empty());
      REQUIRE(alive.use_count() == 3);  // ours, the options', the source's
    }
    REQUIRE(alive.use_count() == 2);
    const OpenStep open = [&](const Commit& c) -> Result<std::vector<std::unique_ptr<StepSource>>> {
      std::vector<std::unique_ptr<StepSource>> sources;
      sources.push_back(std::make_unique<StuckSource>(fixed.store, c));
      return sources;
    };
    REQUIRE(load_newest(catalog, open, rank.state, options).status().code() ==
            Code::kDeadlineExceeded);
  }
}

TEST_CASE("a snapshot whose parts and bytes don't fit is refused") {
  Fixed fixed;
  const Streams streams = streams_of(fixed.saved, 10, Fixed::options());
  Commit head;
  head.step = 10;
  Snapshot whole{streams.parts[0], {}, nullptr};
  for (const auto& bytes : streams.bytes[0]) whole.streams.emplace_back(bytes);
  REQUIRE(ArenaSource::create("m", head, {whole}).ok());
  Snapshot bad = whole;
  bad.streams[0] = bad.streams[0].first(100);
  REQUIRE(ArenaSource::create("m", head, {bad}).status().code() == Code::kInvalidArgument);
  bad = whole;
  bad.streams.pop_back();
  REQUIRE(ArenaSource::create("m", head, {bad}).status().code() == Code::kInvalidArgument);
  bad = whole;
  bad.part.tensors[0].shape = {1, 1};
  REQUIRE(ArenaSource::create("m", head, {whole, bad}).status().code() == Code::kMismatch);
  head.step = 11;
  REQUIRE(ArenaSource::create("m", head, {whole}).status().code() == Code::kInvalidArgument);
}

}  // namespace
}  // namespace convoy::ckpt
