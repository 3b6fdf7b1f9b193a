// Files written and read by the disk engine against plain read() and write(): sizes around every
// border (sector, page, block), aligned and unaligned memory, random cuts; through io_uring and
// through threads, on the disk of the temporary folder and on tmpfs. Faults (short, interrupted,
// refused, failing and unanswered requests) come from a queue that the test puts around the real
// one, and through fault points; each test asks whether its fault fired. Does not check durability
// (a power cut) nor speed.
#include "ckpt/io/disk_engine.h"
#include "ckpt/io/read_plan.h"
#include "ckpt/io/token_bucket.h"
#include "tests/temp_folder.h"
#include <convoy/base/fault.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <random>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using std::chrono::milliseconds;

constexpr size_t kBlock = size_t{64} << 10;  // small, so that borders are many

struct Place {
  bool threads;
  bool tmpfs;
};
const Place kPlaces[] = {{false, false}, {true, false}, {false, true}, {true, true}};

std::string describe(const Place& p) {
  return std::string(p.threads ? "threads" : "io_uring") + (p.tmpfs ? ", tmpfs" : ", disk");
}

// A folder on the disk or on tmpfs.
class Folder {
 public:
  explicit Folder(bool tmpfs) {
    path_ = tmpfs ? "/dev/shm/convoy-disk-test-XXXXXX" : disk_ / "d-XXXXXX";
    REQUIRE(::mkdtemp(path_.data()) != nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  TempFolder disk_;
  std::string path_;
};

DiskOptions options(bool threads) {
  DiskOptions o;
  o.block_bytes = kBlock;
  o.queue_depth = 4;
  o.force_threads = threads;
  return o;
}

struct Aligned {
  explicit Aligned(size_t size, size_t shift = 0, uint32_t seed = 1)
      : memory(static_cast<std::byte*>(std::aligned_alloc(4096, (size / 4096 + 2) * 4096)),
               &std::free),
        bytes(memory.get() + shift, size) {
    std::mt19937 random(seed);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  }
  std::shared_ptr<std::byte> memory;
  std::span<std::byte> bytes;
};

std::vector<std::byte> slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> chars{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::byte> bytes(chars.size());
  if (!chars.empty()) std::memcpy(bytes.data(), chars.data(), chars.size());
  return bytes;
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void spill(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

// --- a queue that misbehaves ---

struct Rule {
  enum Kind { kError, kShort, kHold } kind;
  IoOp op;
  int64_t value = 0;  // kError: the result; kShort: the bytes at most
  int skip = 0;       // requests that pass before
  int count = 1;      // requests that it strikes
};

struct Script {
  std::mutex mutex;
  std::vector<Rule> rules;
  std::vector<IoRequest*> held;
  bool release = false;
  std::atomic<int> fired{0};
};

class FaultyQueue final : public IoQueue {
 public:
  FaultyQueue(std::unique_ptr<IoQueue> inner, std::shared_ptr<Script> script)
      : inner_(std::move(inner)), script_(std::move(script)) {}

  void start(IoRequest* r) override {
    const std::lock_guard lock(script_->mutex);
    for (Rule& rule : script_->rules) {
      if (rule.op != r->op || rule.count == 0) continue;
      if (rule.skip-- > 0) continue;
      rule.skip = 0;
      --rule.count;
      ++script_->fired;
      if (rule.kind == Rule::kHold) return script_->held.push_back(r);
      if (rule.kind == Rule::kShort) {
        r->bytes = std::min<size_t>(r->bytes, static_cast<size_t>(rule.value));
        break;
      }
      r->result = rule.value;
      made_up_.push_back(r);
      return;
    }
    inner_->start(r);
  }

  void wait(std::vector<IoRequest*>& done, Nanos timeout) override {
    {
      const std::lock_guard lock(script_->mutex);
      if (script_->release) {
        for (IoRequest* r : script_->held) inner_->start(r);
        script_->held.clear();
      }
      done.insert(done.end(), made_up_.begin(), made_up_.end());
    }
    if (!made_up_.empty()) timeout = Nanos::zero();
    made_up_.clear();
    inner_->wait(done, std::min<Nanos>(timeout, milliseconds(5)));
  }
  void wake() override { inner_->wake(); }
  void replace_lost() override { inner_->replace_lost(); }
  bool is_ring() const override { return inner_->is_ring(); }

 private:
  std::unique_ptr<IoQueue> inner_;
  std::shared_ptr<Script> script_;
  std::vector<IoRequest*> made_up_;
};

struct Faulty {
  Faulty(const DiskOptions& o, std::vector<Rule> rules, const Clock* clock = nullptr)
      : script(std::make_shared<Script>()) {
    script->rules = std::move(rules);
    DiskTestParts parts;
    parts.wrap = [this](std::unique_ptr<IoQueue> q) {
      return std::make_unique<FaultyQueue>(std::move(q), script);
    };
    parts.clock = clock;
    engine = make_disk_engine(o, parts).value();
  }
  std::shared_ptr<Script> script;
  std::shared_ptr<DiskEngine> engine;
};

Status write_file(DiskEngine& engine, const std::string& path, std::span<const std::byte> bytes,
                  uint64_t hint = 0) {
  auto writer = engine.create_file(path, hint);
  if (!writer.ok()) return writer.status();
  CONVOY_RETURN_IF_ERROR(writer.value()->append(bytes));
  return writer.value()->finish();
}

Status read_whole(DiskEngine& engine, const std::string& path, std::span<std::byte> to) {
  auto reader = engine.open_file(path);
  if (!reader.ok()) return reader.status();
  const ReadRange range{0, to.size(), to.data()};
  return reader.value()->read({&range, 1});
}

// --- good disks ---

TEST_CASE("what is written is what read() finds, for every size, alignment and backend") {
  for (const Place& place : kPlaces) {
    Folder folder(place.tmpfs);
    auto engine = DiskEngine::create(options(place.threads)).value();
    for (const size_t size :
         {size_t{0}, size_t{1}, size_t{511}, size_t{512}, size_t{513}, size_t{4095}, size_t{4096},
          size_t{4097}, kBlock - 1, kBlock, kBlock + 1, 4 * kBlock, 9 * kBlock + 4095}) {
      for (const size_t shift : {size_t{0}, size_t{1}, size_t{512}}) {
        for (const bool hint : {false, true}) {
          INFO(describe(place) << ", " << size << " bytes, shift " << shift << ", hint " << hint);
          const Aligned data(size, shift, static_cast<uint32_t>(size + shift));
          const std::string path = folder / "f";
          REQUIRE(write_file(*engine, path, data.bytes, hint ? size : 0).ok());
          REQUIRE(same(slurp(path), data.bytes));
          const Aligned back(size, shift, 77);
          REQUIRE(read_whole(*engine, path, back.bytes).ok());
          REQUIRE(same(back.bytes, data.bytes));
        }
      }
    }
  }
}

TEST_CASE("the backend is the one asked for, and the folder can be synced") {
  Folder folder(false);
  REQUIRE_FALSE(DiskEngine::create(options(true)).value()->uses_io_uring());
  auto engine = DiskEngine::create(options(false)).value();
  if (!engine->uses_io_uring()) WARN("no io_uring here: its tests ran with threads");
  REQUIRE(engine->sync(folder.path()).ok());
  REQUIRE(engine->sync(folder / "missing").code() == Code::kNotFound);
}

TEST_CASE("random pieces appended one by one make one file; an old file is replaced") {
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  for (const Place& place : kPlaces) {
    INFO(describe(place));
    Folder folder(place.tmpfs);
    auto engine = DiskEngine::create(options(place.threads)).value();
    for (int round = 0; round < 12; ++round) {
      std::deque<Aligned> pieces;
      std::vector<std::byte> expected;
      std::atomic<uint64_t> progress{0};
      auto writer = engine
                        ->create_file(folder / "f", random() % 2 ? 1 << 20 : 0,
                                      [&](uint64_t n) { progress = n; })
                        .value();
      for (size_t n = random() % 12; n > 0; --n) {
        const size_t size = random() % 3 == 0 ? random() % 40 * 4096 : random() % (3 * kBlock);
        pieces.emplace_back(size, random() % 2 ? 0 : random() % 4096, random());
        expected.insert(expected.end(), pieces.back().bytes.begin(), pieces.back().bytes.end());
        REQUIRE(writer->append(pieces.back().bytes).ok());
      }
      REQUIRE(writer->bytes_appended() == expected.size());
      REQUIRE(writer->finish().ok());
      REQUIRE(writer->bytes_written() == expected.size());
      REQUIRE(progress == expected.size());
      REQUIRE(same(slurp(folder / "f"), expected));
    }
  }
}

TEST_CASE("random ranges, in any order, overlapping in the file, are what pread() gives") {
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const size_t size = 40 * kBlock + 1234;
  const Aligned data(size, 0, seed);
  for (const Place& place : kPlaces) {
    INFO(describe(place));
    Folder folder(place.tmpfs);
    spill(folder / "f", data.bytes);
    auto engine = DiskEngine::create(options(place.threads)).value();
    auto reader = engine->open_file(folder / "f").value();
    REQUIRE(reader->size() == size);
    for (int round = 0; round < 15; ++round) {
      std::vector<ReadRange> ranges;
      std::vector<Aligned> memory;
      uint64_t total = 0, progress = 0;
      uint64_t at = random() % 10000;
      for (size_t n = random() % 30; n > 0; --n) {
        const size_t most = size_t{1} << (random() % 20);
        const size_t bytes = std::min<size_t>(random() % (most + 1), size - at);
        memory.emplace_back(bytes, random() % 3 ? at % 4096 : random() % 4096, 3);
        ranges.push_back({at, bytes, memory.back().bytes.data()});
        total += bytes;
        at = random() % 2 ? at + bytes : random() % size;  // adjacent, or anywhere
      }
      std::shuffle(ranges.begin(), ranges.end(), random);
      REQUIRE(reader->read(ranges, nullptr, [&](uint64_t n) { progress = n; }).ok());
      REQUIRE(progress == total);
      for (const ReadRange& r : ranges) {
        REQUIRE(same({r.destination, r.bytes}, data.bytes.subspan(r.offset, r.bytes)));
      }
    }
  }
}

TEST_CASE("several files at once, from several threads, registered memory or not") {
  for (const bool threads : {false, true}) {
    Folder folder(false);
    auto engine = DiskEngine::create(options(threads)).value();
    const Aligned data(30 * kBlock);
    const bool registered = engine->register_memory(data.bytes, data.memory);
    if (engine->uses_io_uring() && !registered) WARN("memory could not be registered here");
    std::vector<std::thread> workers;
    std::atomic<int> good{0};
    for (int w = 0; w < 4; ++w) {
      workers.emplace_back([&, w] {
        const std::string path = folder / std::to_string(w);
        const auto mine = data.bytes.subspan(static_cast<size_t>(w) * kBlock, 20 * kBlock + w);
        Aligned back(mine.size(), static_cast<size_t>(w));
        if (write_file(*engine, path, mine, mine.size()).ok() &&
            read_whole(*engine, path, back.bytes).ok() && same(back.bytes, mine)) {
          ++good;
        }
      });
    }
    for (std::thread& t : workers) t.join();
    REQUIRE(good == 4);
    engine->forget_memory(data.bytes.data());
    REQUIRE(data.memory.use_count() == 1);
  }
}

TEST_CASE("a cancelled or dropped writer lets go of its memory, and the engine goes on") {
  for (const bool threads : {false, true}) {
    Folder folder(false);
    auto engine = DiskEngine::create(options(threads)).value();
    const Aligned data(50 * kBlock);
    {
      auto writer = engine->create_file(folder / "dropped").value();
      REQUIRE(writer->append(data.bytes, data.memory).ok());
    }
    auto writer = engine->create_file(folder / "cancelled").value();
    REQUIRE(writer->append(data.bytes, data.memory).ok());
    writer->cancel();
    REQUIRE(writer->append(data.bytes).code() == Code::kFailedPrecondition);
    REQUIRE(writer->finish().code() == Code::kFailedPrecondition);
    REQUIRE(write_file(*engine, folder / "good", data.bytes).ok());
    REQUIRE(data.memory.use_count() == 1);
  }
}

TEST_CASE("an engine that goes before its writer fails it") {
  Folder folder(false);
  auto engine = DiskEngine::create(options(false)).value();
  const Aligned data(10);
  auto writer = engine->create_file(folder / "f").value();
  auto reader = engine->open_file(folder / "f").value();
  engine.reset();
  (void)writer->append(data.bytes);
  REQUIRE(writer->finish().code() == Code::kFailedPrecondition);
  REQUIRE(reader->read({}).code() == Code::kFailedPrecondition);
}

TEST_CASE("options and names that can't work are refused by name") {
  const auto code_of = [](auto change) {
    DiskOptions o;
    change(o);
    const Status s = DiskEngine::create(o).status();
    INFO(s.to_string());
    return s.code();
  };
  REQUIRE(code_of([](auto& o) { o.queue_depth = 0; }) == Code::kInvalidArgument);
  REQUIRE(code_of([](auto& o) { o.queue_depth = 257; }) == Code::kInvalidArgument);
  REQUIRE(code_of([](auto& o) { o.block_bytes = 1000; }) == Code::kInvalidArgument);
  REQUIRE(code_of([](auto& o) { o.bytes_in_flight_max = 1; }) == Code::kInvalidArgument);
  REQUIRE(code_of([](auto& o) { o.stall_limit = Nanos::zero(); }) == Code::kInvalidArgument);
  Folder folder(false);
  auto engine = DiskEngine::create().value();
  const Status missing = engine->open_file(folder / "none").status();
  REQUIRE(missing.code() == Code::kNotFound);
  REQUIRE(missing.message().find(folder / "none") != std::string::npos);
  REQUIRE(engine->create_file(folder / "no/such").status().code() == Code::kNotFound);
  REQUIRE(engine->open_file(folder.path()).status().code() == Code::kInvalidArgument);
}

TEST_CASE("a range behind the end of the file is data loss, with path, offset and sizes") {
  Folder folder(false);
  const Aligned data(5000);
  spill(folder / "f", data.bytes);
  auto engine = DiskEngine::create(options(false)).value();
  auto reader = engine->open_file(folder / "f").value();
  Aligned to(6000);
  const ReadRange range{100, 4901, to.bytes.data()};
  const Status s = reader->read({&range, 1});
  REQUIRE(s.code() == Code::kDataLoss);
  REQUIRE(s.message() == folder / "f" +
                             " has 5000 bytes, but 4901 bytes from offset 100 on are needed: it is "
                             "truncated");
  // Truncated after it was opened.
  REQUIRE(::truncate((folder / "f").c_str(), 4500) == 0);
  const ReadRange whole{0, 5000, to.bytes.data()};
  const Status later = reader->read({&whole, 1});
  INFO(later.to_string());
  REQUIRE(later.code() == Code::kDataLoss);
  REQUIRE(later.message().find("ends at 4500") != std::string::npos);
}

// --- bad disks ---

TEST_CASE("short, interrupted and refused requests are resumed") {
  for (const Place& place : kPlaces) {
    INFO(describe(place));
    Folder folder(place.tmpfs);
    for (const size_t shift : {size_t{0}, size_t{3}}) {
      const Aligned data(6 * kBlock + 100, shift);
      Faulty f(options(place.threads), {{Rule::kShort, IoOp::kWrite, 4096, 0, 3},
                                        {Rule::kShort, IoOp::kWrite, 20480, 3, 2},
                                        {Rule::kError, IoOp::kWrite, -EINTR, 1, 5},
                                        {Rule::kError, IoOp::kWrite, -EAGAIN, 0, 5},
                                        {Rule::kError, IoOp::kWrite, 0, 0, 2},
                                        {Rule::kShort, IoOp::kRead, 8192, 1, 3},
                                        {Rule::kError, IoOp::kRead, -EINTR, 0, 5},
                                        {Rule::kError, IoOp::kRead, -EAGAIN, 0, 5}});
      REQUIRE(write_file(*f.engine, folder / "f", data.bytes).ok());
      REQUIRE(same(slurp(folder / "f"), data.bytes));
      Aligned back(data.bytes.size(), 0, 5);
      REQUIRE(read_whole(*f.engine, folder / "f", back.bytes).ok());
      REQUIRE(same(back.bytes, data.bytes));
      REQUIRE(f.script->fired == 30);
    }
  }
}

TEST_CASE("a disk that never gets on is given up after a named number of tries") {
  Folder folder(false);
  const Aligned data(kBlock);
  Faulty f(options(false), {{Rule::kError, IoOp::kWrite, -EINTR, 0, 1 << 20}});
  REQUIRE_FALSE(write_file(*f.engine, folder / "f", data.bytes).ok());
  REQUIRE(f.script->fired == 1001);
}

TEST_CASE("O_DIRECT that is refused when opening, or only when writing, becomes buffered") {
  for (const bool threads : {false, true}) {
    Folder folder(false);
    const Aligned data(5 * kBlock + 7);
    Faulty open(options(threads), {{Rule::kError, IoOp::kOpen, -EINVAL}});
    REQUIRE(write_file(*open.engine, folder / "f", data.bytes).ok());
    REQUIRE(same(slurp(folder / "f"), data.bytes));
    Faulty later(options(threads), {{Rule::kError, IoOp::kWrite, -EINVAL, 0, 2}});
    REQUIRE(write_file(*later.engine, folder / "g", data.bytes, data.bytes.size()).ok());
    REQUIRE(same(slurp(folder / "g"), data.bytes));
    REQUIRE(open.script->fired + later.script->fired == 3);
  }
}

TEST_CASE("a file system without fallocate is written all the same") {
  Folder folder(false);
  const Aligned data(kBlock + 1);
  Faulty f(options(false), {{Rule::kError, IoOp::kAllocate, -EOPNOTSUPP}});
  REQUIRE(write_file(*f.engine, folder / "f", data.bytes, data.bytes.size()).ok());
  REQUIRE(same(slurp(folder / "f"), data.bytes));
  REQUIRE(f.script->fired == 1);
}

TEST_CASE("every error of every step comes back with path, place and advice") {
  struct Case {
    IoOp op;
    int error;
    Code code;
    const char* text;
  };
  const Case cases[] = {
      {IoOp::kWrite, ENOSPC, Code::kResourceExhausted, "at offset 65536 (64 KiB): No space"},
      {IoOp::kWrite, EDQUOT, Code::kResourceExhausted, "quota is used up"},
      {IoOp::kWrite, EIO, Code::kDataLoss, "dmesg"},
      {IoOp::kAllocate, ENOSPC, Code::kResourceExhausted, "cannot reserve room for"},
      {IoOp::kTruncate, EIO, Code::kDataLoss, "cannot set the size of"},
      {IoOp::kSync, EIO, Code::kDataLoss, "cannot sync"},
      {IoOp::kSync, ENOSPC, Code::kResourceExhausted, "file system is full"},
      {IoOp::kOpen, EMFILE, Code::kResourceExhausted, "ulimit -n"},
  };
  for (const bool threads : {false, true}) {
    for (const Case& c : cases) {
      INFO(threads << " " << c.text);
      Folder folder(false);
      const Aligned data(8 * kBlock + 1);
      const int skip = c.op == IoOp::kWrite ? 1 : 0;
      Faulty f(options(threads), {{Rule::kError, c.op, -c.error, skip}});
      const Status s = write_file(*f.engine, folder / "f", data.bytes, data.bytes.size());
      INFO(s.to_string());
      REQUIRE(s.code() == c.code);
      REQUIRE(s.message().find(folder / "f") != std::string::npos);
      REQUIRE(s.message().find(c.text) != std::string::npos);
      REQUIRE(f.script->fired == 1);
      REQUIRE(write_file(*f.engine, folder / "g", data.bytes).ok());  // others go on
    }
    Folder folder(false);
    const Aligned data(8 * kBlock);
    spill(folder / "f", data.bytes);
    Faulty f(options(threads), {{Rule::kError, IoOp::kRead, -EIO, 2}});
    Aligned back(data.bytes.size());
    const Status s = read_whole(*f.engine, folder / "f", back.bytes);
    REQUIRE(s.code() == Code::kDataLoss);
    REQUIRE(s.message().find("cannot read " + (folder / "f") + " at offset 131072") !=
            std::string::npos);
  }
}

TEST_CASE(
    "a disk that stops answering: a deadline that names the file; memory is kept; others go on") {
  for (const bool threads : {false, true}) {
    for (const IoOp op : {IoOp::kWrite, IoOp::kSync, IoOp::kAllocate, IoOp::kOpen}) {
      INFO(threads << " " << static_cast<int>(op));
      Folder folder(false);
      const DiskOptions o = options(threads);
      ManualClock clock;
      std::atomic<uint64_t> written{0};
      auto data = std::make_unique<Aligned>(8 * kBlock);
      const std::weak_ptr<std::byte> memory = data->memory;
      Faulty f(o, {{Rule::kHold, op}}, &clock);
      auto script = f.script;
      // Time stands still until nothing but the held request is in flight.
      std::thread time([&] {
        const uint64_t others = op == IoOp::kWrite ? 7 * kBlock : 0;
        while (script->fired == 0 || written < others) std::this_thread::sleep_for(milliseconds(1));
        clock.advance(o.stall_limit);
      });
      Status s;
      auto writer =
          f.engine->create_file(folder / "f", 8 * kBlock, [&](uint64_t n) { written = n; });
      if (!writer.ok()) {
        s = writer.status();
      } else {
        REQUIRE(writer.value()->append(data->bytes, data->memory).ok());
        s = writer.value()->finish();
        writer.value().reset();
      }
      time.join();
      INFO(s.to_string());
      REQUIRE(s.code() == Code::kDeadlineExceeded);
      REQUIRE(s.message().find(folder / "f") != std::string::npos);
      REQUIRE(f.engine->requests_lost() == 1);
      const Aligned other(3 * kBlock);
      REQUIRE(write_file(*f.engine, folder / "g", other.bytes).ok());
      data.reset();
      f.engine.reset();  // does not hang
      REQUIRE(memory.expired() == (op != IoOp::kWrite));
      {
        const std::lock_guard lock(script->mutex);
        script->release = true;
      }
      // The background thread ends: it alone still holds the script with us.
      for (int i = 0; i < 2000 && (script.use_count() > 2 || !memory.expired()); ++i) {
        std::this_thread::sleep_for(milliseconds(5));
      }
      REQUIRE(memory.expired());
      REQUIRE(script.use_count() == 2);  // `script` and `f.script`
    }
  }
}

TEST_CASE("a late answer frees what was lost while the engine lives") {
  Folder folder(false);
  const Aligned data(8 * kBlock);
  spill(folder / "f", data.bytes);
  const DiskOptions o = options(false);
  ManualClock clock;
  std::atomic<uint64_t> got{0};
  Faulty f(o, {{Rule::kHold, IoOp::kRead, 0, 1}}, &clock);
  std::thread time([&] {
    while (got < 7 * kBlock) std::this_thread::sleep_for(milliseconds(1));
    clock.advance(o.stall_limit);
  });
  auto owner = std::make_shared<Aligned>(data.bytes.size());
  auto reader = f.engine->open_file(folder / "f").value();
  const ReadRange range{0, owner->bytes.size(), owner->bytes.data()};
  const Status s = reader->read({&range, 1}, owner, [&](uint64_t n) { got = n; });
  time.join();
  REQUIRE(s.code() == Code::kDeadlineExceeded);
  REQUIRE(f.engine->requests_lost() == 1);
  REQUIRE(owner.use_count() > 1);
  {
    const std::lock_guard lock(f.script->mutex);
    f.script->release = true;
  }
  for (int i = 0; i < 2000 && (f.engine->requests_lost() > 0 || owner.use_count() > 1); ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  REQUIRE(f.engine->requests_lost() == 0);
  REQUIRE(owner.use_count() == 1);
}

// --- fault points ---

TEST_CASE("each fault point strikes") {
  for (const bool threads : {false, true}) {
    Folder folder(false);
    auto engine = DiskEngine::create(options(threads)).value();
    const Aligned data(4 * kBlock + 1);
    REQUIRE(write_file(*engine, folder / "old", data.bytes).ok());
    for (const char* point : {"ckpt.io.open", "ckpt.io.write", "ckpt.io.allocate",
                              "ckpt.io.truncate", "ckpt.io.sync"}) {
      INFO(point);
      fault::arm(point);
      REQUIRE(write_file(*engine, folder / "f", data.bytes, data.bytes.size()).code() ==
              Code::kDataLoss);
    }
    for (const char* point : {"ckpt.io.write.enospc@2", "ckpt.io.allocate.enospc"}) {
      fault::arm(point);
      REQUIRE(write_file(*engine, folder / "f", data.bytes, data.bytes.size()).code() ==
              Code::kResourceExhausted);
    }
    Aligned back(data.bytes.size());
    fault::arm("ckpt.io.read@2");
    REQUIRE(read_whole(*engine, folder / "old", back.bytes).code() == Code::kDataLoss);
    fault::arm("ckpt.io.write.short,ckpt.io.read.short");
    REQUIRE(write_file(*engine, folder / "f", data.bytes).ok());
    REQUIRE(read_whole(*engine, folder / "f", back.bytes).ok());
    REQUIRE(same(back.bytes, data.bytes));
    REQUIRE(same(slurp(folder / "f"), data.bytes));
    fault::arm("");
  }
}

TEST_CASE("a process can be made to die at each step") {
  Folder folder(false);
  const Aligned data(2 * kBlock + 1);
  for (const char* step : {"open", "allocate", "write", "truncate", "sync", "read"}) {
    INFO(step);
    const pid_t child = ::fork();
    if (child == 0) {
      fault::arm(std::string("ckpt.io.") + step + ".kill");
      auto engine = DiskEngine::create(options(false)).value();
      Aligned back(data.bytes.size());
      (void)write_file(*engine, folder / "f", data.bytes, data.bytes.size());
      (void)read_whole(*engine, folder / "f", back.bytes);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
  }
}

// --- pure parts ---

TEST_CASE("plans: neighbours are one request, aligned insides are read in place, each byte once") {
  const Aligned memory(1 << 20);
  std::byte* m = memory.bytes.data();
  const ReadGeometry g{4096, 4096, kBlock};
  // Three neighbours with scattered destinations: one bounce block.
  std::vector<ReadRange> three = {{200, 50, m}, {100, 100, m + 5000}, {250, 10, m + 9000}};
  auto plan = plan_reads(three, g);
  REQUIRE(plan.size() == 1);
  REQUIRE(plan[0].offset == 0);
  REQUIRE(plan[0].bytes == 4096);
  REQUIRE(plan[0].needed() == 260);
  // Contiguous in file and memory: whole blocks in place.
  std::vector<ReadRange> row = {{0, kBlock, m}, {kBlock, kBlock, m + kBlock}};
  plan = plan_reads(row, g);
  REQUIRE(plan.size() == 2);
  REQUIRE(plan[0].direct == m);
  REQUIRE(plan[1].direct == m + kBlock);
  // An unaligned range around an aligned inside: edges apart, the rest in place.
  std::vector<ReadRange> edge = {{4000, 3 * kBlock, m + 4000}};
  plan = plan_reads(edge, g);
  size_t in_place = 0, bounced = 0;
  for (const ReadBlock& b : plan) {
    REQUIRE(b.offset % 4096 == 0);
    REQUIRE(b.bytes % 4096 == 0);
    if (b.direct != nullptr) in_place += b.bytes;
    for (const auto& p : b.pieces) bounced += p.bytes;
  }
  REQUIRE(in_place + bounced == 3 * kBlock);
  REQUIRE(bounced == 96 + 4000);
  REQUIRE(plan_reads({}, g).empty());
}

TEST_CASE("the bandwidth limit holds over any time, and a changed one applies at once") {
  ManualClock clock;
  clock.advance(std::chrono::hours(1));
  TokenBucket bucket;
  const TimePoint begin = clock.now();
  uint64_t bytes = 0;
  while (clock.now() - begin < std::chrono::seconds(10)) {
    const Nanos wait = bucket.wait(100 << 20, clock.now());
    clock.advance(wait > Nanos::zero() ? wait + std::chrono::microseconds(200) : Nanos::zero());
    bucket.take(100 << 20, 4 << 20, clock.now());
    bytes += 4 << 20;
  }
  REQUIRE(bytes >= uint64_t{1000} << 20);
  REQUIRE(bytes <= uint64_t{1014} << 20);
  REQUIRE(bucket.wait(100 << 20, clock.now()) > Nanos::zero());
  REQUIRE(bucket.wait(0, clock.now()) == Nanos::zero());
  REQUIRE(bucket.wait(200 << 20, clock.now()) == Nanos::zero());
}

TEST_CASE("a limited engine takes at least the time that the limit demands") {
  Folder folder(false);
  DiskOptions o = options(false);
  o.bandwidth = 4 << 20;
  auto engine = DiskEngine::create(o).value();
  const Aligned data(1 << 20);
  const TimePoint begin = Clock::system().now();
  REQUIRE(write_file(*engine, folder / "f", data.bytes).ok());
  // 1 MiB at 4 MiB/s, less the 50 ms that may be saved up and the last block.
  REQUIRE(Clock::system().now() - begin >= milliseconds(150));
  engine->set_bandwidth(0);
  REQUIRE(write_file(*engine, folder / "f", data.bytes).ok());
}

}  // namespace
}  // namespace convoy::ckpt
