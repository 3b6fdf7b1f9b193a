// Streams: what is written is what is read, in every form; damaged and hostile ones are refused.
#include "tests/temp_folder.h"
#include "tests/trace/random_batches.h"
#include <convoy/trace/operation.h>
#include <convoy/trace/stream.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>

namespace convoy::trace {
namespace {

// All that a stream has told, with names in place of numbers, so that Registries don't matter.
struct Told : Sink {
  explicit Told(const Registry& r) : registry(r) {}
  const Registry& registry;
  std::vector<JobInfo> jobs;
  std::vector<ClockSample> clocks;
  std::vector<std::string> batches;

  void job(const JobInfo& job) override { jobs.push_back(job); }
  void clock(const ClockSample& sample) override { clocks.push_back(sample); }
  void batch(const Batch& batch) override { batches.push_back(text_of(batch)); }

  std::string text_of(const Operation& o) const {
    const Signature& s = registry.signatures()[o.signature];
    const GroupInfo& group = registry.groups()[s.group];
    return group_text(group) + operation_text({s.operation, s.dtype, s.reduction, s.uneven}) + "|" +
           numbers({s.root, s.peer, static_cast<int64_t>(s.bytes), o.sequence, o.issued, o.started,
                    o.completed});
  }
  std::string text_of(const SpanEvent& s) const {
    return registry.names()[s.name] +
           numbers({s.thread, s.begin, s.end, static_cast<int64_t>(s.value)});
  }
  static std::string numbers(const std::vector<int64_t>& list) {
    std::string text;
    for (const int64_t n : list) text += std::to_string(n) + ",";
    return text;
  }
  std::string text_of(const Batch& b) const {
    std::string text = b.host + numbers({b.rank, static_cast<int64_t>(b.generation),
                                         static_cast<int64_t>(b.number), b.received, b.pid});
    // A stream may put them in the order of their beginnings.
    std::vector<std::string> operations;
    for (const Operation& o : b.operations) operations.push_back(text_of(o));
    std::ranges::sort(operations);
    for (const std::string& o : operations) text += "\n o " + o;
    for (const SpanEvent& s : b.spans) text += "\n s " + text_of(s);
    for (const CounterEvent& c : b.counters) {
      text += "\n c " + registry.names()[c.name] +
              numbers({c.peer, c.time, static_cast<int64_t>(c.value)});
    }
    if (!b.state) return text;
    text += "\n state " +
            numbers({b.state->time, static_cast<int64_t>(b.state->life), b.state->exit_code,
                     static_cast<int64_t>(b.state->lost), static_cast<int64_t>(b.state->shed)});
    for (const GroupProgress& p : b.state->progress) {
      text +=
          "\n  p " + registry.groups()[p.group].name + numbers({p.issued, p.started, p.completed});
    }
    for (const Operation& o : b.state->pending) text += "\n  o " + text_of(o);
    for (const SpanEvent& s : b.state->open) text += "\n  s " + text_of(s);
    return text;
  }
};

const JobInfo kJob{"a job", 3, 8, {{"tp", 2}, {"dp", 4}}};
const ClockSample kClock{"node1", 123456, -5, 20};

void fill(Registry& registry, uint64_t seed, const std::vector<Sink*>& sinks, int batches = 200) {
  RandomBatches random(registry, seed);
  for (Sink* sink : sinks) sink->job(kJob);
  for (int i = 0; i < batches; ++i) {
    const Batch batch = random.next(static_cast<uint32_t>(i * 7 % 5));
    for (Sink* sink : sinks) {
      sink->batch(batch);
      if (i % 50 == 0) sink->clock(kClock);
    }
  }
}

}  // namespace

TEST_CASE("Binary and JSON files give back what was written to them") {
  const TempFolder folder;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Registry registry;
    Told written(registry);
    auto binary = StreamWriter::create(folder / "binary", registry);
    auto json = JsonStreamWriter::create(folder / "json", registry);
    REQUIRE(binary.ok());
    REQUIRE(json.ok());
    fill(registry, seed, {&written, binary->get(), json->get()});
    CHECK((*binary)->close().ok());
    CHECK((*json)->close().ok());
    for (const char* name : {"binary", "json"}) {
      INFO(name << " " << seed);
      Registry other;
      other.name("another number");
      other.group({"another group", {}});
      Told read(other);
      bool truncated = true;
      const Status status = read_stream(folder / name, other, read, &truncated);
      INFO(status.to_string());
      REQUIRE(status.ok());
      CHECK(!truncated);
      CHECK(read.jobs == written.jobs);
      CHECK(read.clocks == written.clocks);
      REQUIRE(read.batches == written.batches);
    }
  }
}

TEST_CASE("A file that was cut off is read up to there") {
  const TempFolder folder;
  Registry registry;
  Told written(registry);
  const auto path = folder / "stream";
  auto writer = StreamWriter::create(path, registry);
  for (uint64_t part = 0; part < 4; ++part) {
    fill(registry, part, {&written, writer->get()}, 40);
    CHECK((*writer)->flush().ok());
  }
  CHECK((*writer)->close().ok());
  const uint64_t whole = std::filesystem::file_size(path);
  size_t before = written.batches.size();
  for (uint64_t size = whole; size >= 16; size -= std::min<uint64_t>(size, whole / 37 + 1)) {
    std::filesystem::resize_file(path, size);
    Registry other;
    Told read(other);
    bool truncated = false;
    REQUIRE(read_stream(path, other, read, &truncated).ok());
    CHECK(read.batches.size() <= before);
    before = read.batches.size();
    CHECK(std::equal(read.batches.begin(), read.batches.end(), written.batches.begin()));
    CHECK((truncated || size == whole || read.batches.size() < written.batches.size()));
  }
}

TEST_CASE("A flipped bit in a file is found and its place told") {
  const TempFolder folder;
  Registry registry;
  const auto path = folder / "stream";
  auto writer = StreamWriter::create(path, registry);
  fill(registry, 1, {writer->get()}, 30);
  CHECK((*writer)->close().ok());
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(500);
  const auto was = static_cast<char>(file.get());
  file.seekp(500);
  file.put(static_cast<char>(was ^ 4));
  file.close();
  Told read(registry);
  const Status status = read_stream(path, registry, read);
  CHECK(status.code() == Code::kDataLoss);
  CHECK_THAT(status.message(),
             Catch::Contains(path) && Catch::Contains("at byte 16") && Catch::Contains("checksum"));
}

TEST_CASE("Files that are no streams are refused with a reason") {
  const TempFolder folder;
  Registry registry;
  Told told(registry);
  const auto path = folder / "x";
  CHECK(read_stream(path, registry, told).code() == Code::kNotFound);
  const auto refused = [&](const std::string& content, const std::string& why) {
    std::ofstream(path, std::ios::binary) << content;
    const Status status = read_stream(path, registry, told);
    INFO(content);
    CHECK_THAT(status.message(), Catch::Contains(why));
    return !status.ok();
  };
  CHECK(refused("", "no trace stream"));
  CHECK(refused("something else altogether", "no trace stream"));
  CHECK(refused(std::string("CNVSTRM\n\x02\0\0\0\x64\0\0\0", 16), "version 2"));
  CHECK(refused("{\"job\": {\"world_size\": \"many\"}}\n", "line 1"));
  CHECK(refused("{\"job\": {\"world_size\": 2}}\n[1]\n{}\n", "line 2 is no JSON object"));
  CHECK(refused("{\"batch\": {\"rank\": 1}}\n{}", "number"));
  bool truncated = false;
  std::ofstream(path) << "{\"job\": {\"world_size\": 2}}\n{\"batch\": {\"ra";
  CHECK(read_stream(path, registry, told, &truncated).ok());
  CHECK(truncated);
}

TEST_CASE("A reader that joins later reads from the next restart on") {
  Registry registry;
  RandomBatches random(registry, 5);
  BatchEncoder encoder(registry);
  std::string first, second, third;
  encoder.encode(random.next(1), first);
  encoder.encode(random.next(1), second);
  encoder.restart();
  const Batch last = random.next(1);
  encoder.encode(last, third);
  const auto bytes = [](const std::string& s) { return std::as_bytes(std::span(s)); };

  Registry other;
  BatchDecoder decoder(other);
  Batch batch;
  const Status status = decoder.decode(bytes(second), batch);
  CHECK(status.code() == Code::kDataLoss);
  CHECK_THAT(status.message(), Catch::Contains("rank 1") && Catch::Contains("missing"));
  REQUIRE(decoder.decode(bytes(third), batch).ok());
  Told a(registry), b(other);
  CHECK(a.text_of(last) == b.text_of(batch));
}

// Under the address and undefined sanitizers, too.
TEST_CASE("Whatever bytes come, they are refused or read") {
  std::mt19937_64 random(7);
  Registry registry;
  RandomBatches batches(registry, 6);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    BatchEncoder encoder(registry);
    std::string bytes;
    encoder.encode(batches.next(static_cast<uint32_t>(round % 3)), bytes);
    for (uint64_t flips = random() % 4; flips > 0; --flips) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1U << random() % 8);
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    if (random() % 8 == 0) {
      for (char& c : bytes) c = static_cast<char>(random());
    }
    Registry other;
    BatchDecoder decoder(other);
    Batch batch;
    if (!decoder.decode(std::as_bytes(std::span(bytes)), batch).ok()) ++refused;
  }
  CHECK(refused > 500);
}

TEST_CASE("An operation takes some six bytes") {
  Registry registry;
  const uint32_t tp = registry.group({"tp[0]", {0, 1}});
  std::vector<uint32_t> kinds;
  for (const uint64_t bytes : {1U << 20, 3U << 20, 4096U}) {
    kinds.push_back(registry.signature({tp, "all_reduce", "bfloat16", "sum", -1, -1, bytes}));
  }
  std::mt19937_64 random(3);
  std::lognormal_distribution<double> gap(12.5, 0.8), length(11.5, 0.8);  // some 270, 100 us
  BatchEncoder encoder(registry);
  std::string bytes;
  size_t operations = 0;
  int64_t now = 1;
  for (uint64_t number = 1; number <= 20; ++number) {
    Batch batch;
    batch.rank = 1000;
    batch.number = number;
    for (uint32_t i = 0; i < 500; ++i) {
      now += static_cast<int64_t>(gap(random));
      batch.operations.push_back({kinds[i % 3], static_cast<uint32_t>(++operations), now, 0,
                                  now + static_cast<int64_t>(length(random))});
    }
    encoder.encode(batch, bytes);
  }
  const double each = static_cast<double>(bytes.size()) / static_cast<double>(operations);
  INFO(each);
  CHECK(each < 6.5);
}

TEST_CASE("Texts of operations and groups are read back") {
  const OperationKind kind{"all_to_all", "bfloat16", "", true};
  CHECK(parse_operation(operation_text(kind)) == kind);
  CHECK(parse_operation("x").operation == "x");
  for (const std::vector<uint32_t>& ranks : std::vector<std::vector<uint32_t>>{
           {}, {5}, {0, 1, 2, 3}, {0, 4, 8}, {7, 3, 1, 2}, {1, 2, 5, 6, 9, 10}, {3, 3, 3}}) {
    const GroupInfo group{"tp[0]", ranks};
    CHECK(parse_group(group_text(group)) == group);
  }
  std::vector<uint32_t> many(200);
  for (uint32_t i = 0; i < 200; ++i) many[i] = i * i;
  CHECK(parse_group(group_text({"g", many})).ranks.empty());
  CHECK(parse_group("g\x1f"
                    "1+1*99999999")
            .ranks.empty());
  CHECK(parse_group("g\x1f"
                    "1+-1*3,2")
            .ranks.empty());
}

}  // namespace convoy::trace
