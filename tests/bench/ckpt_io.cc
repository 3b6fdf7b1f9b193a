// Measures the checkpoint module's fast paths beside their limits, interleaved in one run, and
// prints a JSON line for each:
//   ckpt.copy        gather of some 300 tensors into an arena with XXH3 of each chunk; limit:
//   memcpy
//                    of the same tensors to the same place by as many threads
//   ckpt.disk_write  one file from the arena, O_DIRECT, fsync; limit: fio (io_uring, 4 MiB, depth
//   8) ckpt.disk_read   the same file back; limit: fio
// Usage: ckpt_io [--folder DIR] [--mib N] [--runs N] [--only copy|write|read] [--threads] [--plain]
// --folder is where the files go (the file system to measure); --threads: no io_uring; --plain:
// memory is not registered. Without fio there is no limit for the disk, and a line says so.
#include <convoy/ckpt/arena.h>
#include <convoy/ckpt/copy.h>
#include <convoy/ckpt/disk_file.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace convoy;
using namespace convoy::ckpt;

namespace {

struct Arguments {
  std::string folder = ".";
  std::string only;
  size_t bytes = size_t{512} << 20;
  int runs = 5;
  bool threads = false;
  bool plain = false;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

template <class T>
T need(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "%s\n", result.status().to_string().c_str());
  std::exit(1);
}

void need(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  std::exit(1);
}

double load() {
  double loads[1] = {0};
  return ::getloadavg(loads, 1) == 1 ? loads[0] : -1;
}

// Rates in bytes/s, one a run.
void report(const char* bench, const std::string& what, const Arguments& a,
            const std::vector<double>& ours, const std::vector<double>& limit,
            const char* limit_name) {
  const double value = median(ours);
  std::printf(
      R"({"bench": "%s", "case": "%s", "metric": "rate_gib_s", "value": %.3f, "unit": "GiB/s", )",
      bench, what.c_str(), value / (1 << 30));
  if (!limit.empty()) {
    const double most = median(limit);
    std::vector<double> shares;  // of neighbours in time: the machine's mood cancels out
    for (size_t i = 0; i < ours.size(); ++i) shares.push_back(ours[i] / limit[i]);
    std::printf(
        R"("limit": %.3f, "limit_name": "%s", "share_of_limit": %.3f, "share_pairwise": %.3f, )",
        most / (1 << 30), limit_name, value / most, median(shares));
    std::printf(R"("limit_spread": [%.3f, %.3f], )",
                *std::min_element(limit.begin(), limit.end()) / (1 << 30),
                *std::max_element(limit.begin(), limit.end()) / (1 << 30));
  }
  std::printf(R"("spread": [%.3f, %.3f], "mib": %zu, "runs": %zu, "load": %.1f})"
              "\n",
              *std::min_element(ours.begin(), ours.end()) / (1 << 30),
              *std::max_element(ours.begin(), ours.end()) / (1 << 30), a.bytes >> 20, ours.size(),
              load());
  std::fflush(stdout);
}

// Tensors like a transformer's with Adam: some large, many small; `bytes` together.
struct State {
  explicit State(size_t bytes) : memory(bytes) {
    std::mt19937_64 random(1);
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
      const uint64_t word = random();
      std::memcpy(memory.data() + i, &word, 8);
    }
    const size_t matrix = bytes / 128, vector = 4096;
    size_t at = 0;
    for (int i = 0; at < bytes; ++i) {
      const size_t n = std::min(i % 2 == 0 ? matrix : vector, bytes - at);
      runs.push_back({memory.data() + at, n});
      at += n;
    }
  }
  std::vector<std::byte> memory;
  std::vector<SourceRun> runs;
};

// memcpy of the tensors, cut evenly between `threads`.
void plain_copy(const State& state, std::byte* to, int threads) {
  const size_t size = state.memory.size();
  const auto part = [&](size_t begin, size_t end) {
    size_t at = 0;
    for (const SourceRun& run : state.runs) {
      const size_t from = std::max(begin, at), until = std::min(end, at + run.bytes);
      if (from < until) std::memcpy(to + from, run.data + (from - at), until - from);
      at += run.bytes;
    }
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) {
    others.emplace_back(part, size * t / threads, size * (t + 1) / threads);
  }
  part(0, size / threads);
  for (std::thread& t : others) t.join();
}

void bench_copy(const Arguments& a, const State& state, Arena& arena) {
  const auto to = arena.bytes().first(a.bytes);
  std::vector<uint64_t> sums(chunk_count(a.bytes));
  for (const int threads : {1, 2}) {
    auto pool = need(CopyPool::create(threads));
    std::vector<double> ours, limit;
    for (int run = -1; run < std::max(a.runs, 5); ++run) {  // the first is the warm-up
      const double begin = now();
      need(pool->copy(state.runs, to, sums));
      const double between = now();
      plain_copy(state, to.data(), threads);
      const double end = now();
      if (run < 0) continue;
      ours.push_back(static_cast<double>(a.bytes) / (between - begin));
      limit.push_back(static_cast<double>(a.bytes) / (end - between));
    }
    report("ckpt.copy", std::to_string(threads) + " threads", a, ours, limit, "memcpy");
  }
}

// Its buffers in huge pages, as ours: with ordinary ones it reaches half of that on a virtio disk.
// fio's rate in bytes/s for one file of the same size; 0: it failed.
double fio(const Arguments& a, const std::string& path, bool write) {
  const std::string command =
      "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 fio --mem=malloc --name=t --filename='" + path +
      "' --rw=" + (write ? "write" : "read") +
      " --bs=4m --iodepth=8 --direct=1 --ioengine=io_uring --size=" + std::to_string(a.bytes) +
      (write ? " --end_fsync=1" : "") + " --minimal 2>/dev/null";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return 0;
  std::string text;
  char part[4096];
  for (size_t n = 0; (n = std::fread(part, 1, sizeof(part), pipe)) > 0;) text.append(part, n);
  ::pclose(pipe);
  const int field = write ? 48 : 7;  // bandwidth, KiB/s
  size_t at = 0;
  for (int i = 1; i < field && at != std::string::npos; ++i) {
    at = text.find(';', at);
    if (at != std::string::npos) ++at;
  }
  return at == std::string::npos ? 0 : std::strtod(text.c_str() + at, nullptr) * 1024;
}

struct Written {
  double rate;   // from the first byte to the end of fsync: what fio counts
  double whole;  // with creating the file and reserving its room, which fio does before its clock
                 // starts
};

Written write_once(DiskEngine& engine, const std::string& path, std::span<const std::byte> bytes) {
  std::filesystem::remove(path);
  const double begin = now();
  auto writer = need(engine.create_file(path, bytes.size()));
  const double created = now();
  need(writer->append(bytes));
  need(writer->finish());
  const double end = now();
  const auto size = static_cast<double>(bytes.size());
  return {size / (end - created), size / (end - begin)};
}

double read_once(DiskEngine& engine, const std::string& path, std::span<std::byte> to) {
  const double begin = now();
  auto reader = need(engine.open_file(path));
  const ReadRange range{0, to.size(), to.data()};
  need(reader->read({&range, 1}));
  return static_cast<double>(to.size()) / (now() - begin);
}

// Which comes first changes: a disk is still busy with what the one before left behind.
void in_turn(int run, const std::function<void()>& a, const std::function<void()>& b) {
  run % 2 == 0 ? a() : b();
  run % 2 == 0 ? b() : a();
}

std::string backend(const DiskEngine& engine, bool registered) {
  return std::string(engine.uses_io_uring() ? "io_uring" : "threads") +
         (registered ? "/registered" : "");
}

void bench_disk(const Arguments& a, const std::shared_ptr<Arena>& arena, bool have_fio) {
  DiskOptions options;
  options.force_threads = a.threads;
  auto engine = need(DiskEngine::create(options));
  const auto bytes = arena->bytes().first(a.bytes);
  const bool registered = !a.plain && engine->register_memory(arena->bytes(), arena);
  const std::string path = a.folder + "/convoy-bench.data", theirs = a.folder + "/convoy-bench.fio";
  const std::vector<std::byte> original(bytes.begin(), bytes.end());
  const std::string name = backend(*engine, registered);
  std::vector<double> ours, whole, limit;
  for (int run = 0; run < a.runs && a.only != "read"; ++run) {
    in_turn(
        run,
        [&] {
          const Written written = write_once(*engine, path, bytes);
          ours.push_back(written.rate);
          whole.push_back(written.whole);
        },
        [&] {
          std::filesystem::remove(theirs);
          if (have_fio) limit.push_back(fio(a, theirs, true));
        });
  }
  if (!ours.empty()) {
    report("ckpt.disk_write", name, a, ours, limit, "fio");
    report("ckpt.disk_write", name + "/with create", a, whole, limit, "fio");
  }
  if (a.only == "write") return;
  write_once(*engine, path, bytes);
  ours.clear();
  limit.clear();
  for (int run = 0; run < a.runs;
       ++run) {  // the same file; O_DIRECT, so the page cache has no part
    in_turn(
        run, [&] { ours.push_back(read_once(*engine, path, bytes)); },
        [&] {
          if (have_fio) limit.push_back(fio(a, path, false));
        });
  }
  report("ckpt.disk_read", name, a, ours, limit, "fio");
  if (!std::equal(original.begin(), original.end(), bytes.begin())) {
    std::fprintf(stderr, "what was read is not what was written\n");
    std::exit(1);
  }
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string { return i + 1 < argc ? argv[++i] : ""; };
    if (name == "--folder") {
      a.folder = value();
    } else if (name == "--mib") {
      a.bytes = std::strtoull(value().c_str(), nullptr, 10) << 20;
    } else if (name == "--runs") {
      a.runs = std::atoi(value().c_str());
    } else if (name == "--only") {
      a.only = value();
    } else if (name == "--threads") {
      a.threads = true;
    } else if (name == "--plain") {
      a.plain = true;
    } else {
      std::fprintf(stderr, "unknown option %s\n", name.c_str());
      std::exit(64);
    }
  }
  return a;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a = parse(argc, argv);
  std::filesystem::create_directories(a.folder);
  auto arena = need(Arena::create(a.bytes));
  need(arena->wait_touched());
  const State state(a.bytes);
  if (a.only.empty() || a.only == "copy") {
    bench_copy(a, state, *arena);
    if (a.only == "copy") return 0;
  }
  std::memcpy(arena->bytes().data(), state.memory.data(), a.bytes);
  const bool have_fio = std::system("command -v fio > /dev/null") == 0;
  if (!have_fio) {
    std::fprintf(stderr, "ckpt_io: fio is missing (Debian: fio): no limit for the disk\n");
  }
  bench_disk(a, arena, have_fio);
  std::filesystem::remove(a.folder + "/convoy-bench.data");
  std::filesystem::remove(a.folder + "/convoy-bench.fio");
  return 0;
}
