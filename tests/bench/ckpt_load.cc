// Measures loading a committed step from a local folder beside its limits, interleaved in one run,
// and prints a JSON line for each:
//   ckpt.load  same layout (4 ranks, each its own stream), 4 to 2 and 4 to 8 ranks; limits: fio
//              (O_DIRECT, io_uring, 4 MiB, depth 8) and plain pread into memory, of the same file;
//              and from snapshots in memory, as after a killed trainer; limit: memcpy of the same
//              bytes by as many threads
// Ranks are threads with sources and engines of their own; resharded loads go through
// load_together(). The state is GPT-like with Adam, some 300 tensors, half of them cut by rows and
// half by columns, so that 4 to 8 halves rows. The page cache is dropped for the file before each
// load. "read_share" is bytes read over bytes needed, over all ranks; what was loaded is compared
// with what was saved.
// Usage: ckpt_load [--folder DIR] [--mib N] [--runs N] [--threads N] [--staged]
// --mib is the size of the whole state, --threads those of each rank, --staged forbids reading in
// place. Without fio its line is left out.
#include "tests/ckpt/thread_exchange.h"
#include <convoy/base/checksum.h>
#include <convoy/ckpt/arena.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/copy.h>
#include <convoy/ckpt/load_together.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
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

constexpr int kSavers = 4;

struct Arguments {
  std::string folder = ".";
  size_t bytes = size_t{512} << 20;
  int runs = 5;
  int threads = 2;
  bool staged = false;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void need(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.to_string().c_str());
  std::exit(1);
}

template <class T>
T need(Result<T> result) {
  need(result.status());
  return std::move(result).value();
}

double load_average() {
  double loads[1] = {0};
  return ::getloadavg(loads, 1) == 1 ? loads[0] : -1;
}

// A tensor, and the dimension it is cut by.
struct Shape {
  TensorInfo info;
  size_t dim;
};

// 25 layers of 4 matrices and 3 moments each, and as many vectors: 300 tensors of about `bytes`.
std::vector<Shape> shapes_of(size_t bytes) {
  constexpr int kMatrices = 100;
  const int64_t rows = 1024;
  const int64_t columns =
      std::max<int64_t>(8, static_cast<int64_t>(bytes / kMatrices / 4) / rows / 8 * 8);
  std::vector<Shape> shapes;
  for (int i = 0; i < kMatrices; ++i) {
    const std::string name = "layers." + std::to_string(i);
    shapes.push_back({{name + ".weight", Dtype::kFloat32, {rows, columns}}, i % 2 == 0 ? 0U : 1U});
    shapes.push_back({{name + ".norm", Dtype::kFloat32, {1024}}, 0});
    shapes.push_back({{name + ".bias", Dtype::kFloat32, {4096}}, 0});
  }
  return shapes;
}

// A rank's share in memory that was touched.
struct Rank {
  State state;
  std::vector<std::byte> memory;

  Rank(const std::vector<Shape>& shapes, int rank, int ranks) {
    std::vector<size_t> offsets;
    size_t total = 0;
    for (const Shape& shape : shapes) {
      StateBox box{std::vector<int64_t>(shape.info.shape.size(), 0), shape.info.shape, nullptr, {}};
      box.extent[shape.dim] /= ranks;
      box.begin[shape.dim] = box.extent[shape.dim] * rank;
      box.strides.assign(box.extent.size(), 1);
      for (size_t d = box.extent.size(); d > 1; --d) {
        box.strides[d - 2] = box.strides[d - 1] * box.extent[d - 1];
      }
      offsets.push_back(total);
      total += (static_cast<size_t>(box.elements()) * 4 + 63) / 64 * 64;
      state.push_back({shape.info, {box}});
    }
    memory.resize(total + 64);
    auto* base =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    for (size_t i = 0; i < state.size(); ++i) state[i].boxes[0].data = base + offsets[i];
  }

  // Each element is a function of its global place.
  void fill() {
    each([](uint32_t& value, uint32_t truth) { value = truth; });
  }
  void clear() { std::memset(memory.data(), 0xee, memory.size()); }
  void verify() {
    size_t wrong = 0;
    each([&](uint32_t& value, uint32_t truth) { wrong += value == truth ? 0 : 1; });
    if (wrong == 0) return;
    std::fprintf(stderr, "%zu elements are not what was saved\n", wrong);
    std::exit(1);
  }

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const StateTensor& tensor : state) {
      sum += static_cast<uint64_t>(tensor.boxes[0].elements()) * 4;
    }
    return sum;
  }

 private:
  template <class F>
  void each(F what) {
    for (size_t t = 0; t < state.size(); ++t) {
      const StateBox& box = state[t].boxes[0];
      const bool matrix = box.extent.size() == 2;
      const int64_t width = matrix ? box.extent[1] : box.extent[0];
      const int64_t whole = state[t].info.shape.back();
      auto* at = reinterpret_cast<uint32_t*>(box.data);
      for (int64_t i = 0; i < (matrix ? box.extent[0] : 1); ++i) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t place = (matrix ? (box.begin[0] + i) * whole : 0) + box.begin.back() + j;
          what(*at++, static_cast<uint32_t>(place * 2654435761U + t * 40503U));
        }
      }
    }
  }
};

struct Saved {
  std::string file;
  Commit commit;
  std::vector<std::shared_ptr<std::vector<std::byte>>> streams;  // by rank
  std::unique_ptr<StepSource> memory;                            // of them
};

// A rank's snapshot as an agent holds it.
Snapshot snapshot_of(const StreamLayout& layout, const Stream& stream,
                     const std::shared_ptr<std::vector<std::byte>>& bytes) {
  Part part{1, 0, 1, layout.tensors, {{"snapshot", stream.bytes}}, {stream}};
  uint64_t at = 0;
  for (Chunk& chunk : part.streams[0].chunks) {
    chunk.offset = at;
    at += chunk.bytes;
  }
  return {std::move(part), {std::span(*bytes).first(stream.bytes)}, bytes};
}

// Saves the step as a service would: one part and file for the node.
Saved save(const Arguments& a, const std::vector<Shape>& shapes) {
  std::filesystem::remove_all(a.folder);
  std::filesystem::create_directories(a.folder);
  const auto store = need(open_local_store(a.folder));
  Catalog catalog(*store);
  need(catalog.take_over({"bench", 1, "ckpt_load"}));
  Part part{1, 0, 1, {}, {{catalog.data_path(1, 0), 0}}, {}};
  const auto writer = need(store->open_writer(part.files[0].path));
  const auto pool = need(CopyPool::create(2));
  Saved saved;
  std::vector<Snapshot> snapshots;
  for (int r = 0; r < kSavers; ++r) {
    Rank rank(shapes, r, kSavers);
    rank.fill();
    StreamLayout layout = need(lay_out(rank.state));
    const auto kept = std::make_shared<std::vector<std::byte>>(layout.stream.bytes);
    std::vector<std::byte>& bytes = *kept;
    std::vector<uint64_t> sums(chunk_count(bytes.size()));
    need(pool->copy(layout.runs, bytes, sums));
    Stream& stream = layout.stream;
    stream.rank = static_cast<uint32_t>(r);
    for (size_t i = 0; i < sums.size(); ++i) {
      const auto size =
          static_cast<uint32_t>(std::min(kChunkBytes, bytes.size() - i * kChunkBytes));
      stream.chunks.push_back({0, part.files[0].bytes, size, Codec::kRaw, sums[i]});
      part.files[0].bytes += size;
    }
    snapshots.push_back(snapshot_of(layout, stream, kept));
    saved.streams.push_back(kept);
    // Streams begin on a page of the file, as the writer of a service lays them.
    bytes.resize((bytes.size() + kDiskAlign - 1) / kDiskAlign * kDiskAlign);
    part.files[0].bytes = (part.files[0].bytes + kDiskAlign - 1) / kDiskAlign * kDiskAlign;
    need(writer->append(bytes));
    part.tensors = layout.tensors;
    part.streams.push_back(std::move(stream));
  }
  need(writer->finish());
  Commit head;
  head.step = 1;
  head.world_size = kSavers;
  CommitBuilder builder(head);
  need(builder.add(need(catalog.write_part(part)), part));
  need(catalog.commit(std::move(builder).finish()));
  for (Snapshot& snapshot : snapshots) {  // the vectors have grown since
    const auto bytes = std::static_pointer_cast<const std::vector<std::byte>>(snapshot.owner);
    snapshot.streams[0] = std::span(*bytes).first(snapshot.part.streams[0].bytes);
  }
  saved.memory = need(ArenaSource::create("memory", head, std::move(snapshots)));
  saved.file = a.folder + "/" + part.files[0].path;
  saved.commit = need(catalog.latest());
  return saved;
}

void drop_cache(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

// fio's rate in bytes/s for reading the file; 0: it failed.
double fio(const std::string& path) {
  const std::string command =
      "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 fio --mem=malloc --name=t --filename='" + path +
      "' --rw=read --bs=4m --iodepth=8 --direct=1 --ioengine=io_uring --readonly --minimal "
      "2>/dev/null";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return 0;
  std::string text;
  char part[4096];
  for (size_t n = 0; (n = std::fread(part, 1, sizeof(part), pipe)) > 0;) text.append(part, n);
  ::pclose(pipe);
  size_t at = 0;
  for (int i = 1; i < 7 && at != std::string::npos; ++i) {
    at = text.find(';', at);
    if (at != std::string::npos) ++at;
  }
  return at == std::string::npos ? 0 : std::strtod(text.c_str() + at, nullptr) * 1024;
}

double plain_read(const std::string& path, std::vector<std::byte>& to) {
  drop_cache(path);
  const double begin = now();
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  size_t done = 0;
  while (done < to.size()) {
    const ssize_t n = ::pread(fd, to.data() + done, std::min<size_t>(to.size() - done, 8 << 20),
                              static_cast<off_t>(done));
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  ::close(fd);
  return static_cast<double>(done) / (now() - begin);
}

// All ranks' streams into their memory at once, in bytes/s.
double copy_once(const Saved& saved, std::vector<Rank>& ranks) {
  std::vector<std::thread> threads;
  uint64_t bytes = 0;
  const double begin = now();
  for (size_t r = 0; r < ranks.size(); ++r) {
    const uint64_t size = ranks[r].bytes();
    bytes += size;
    threads.emplace_back(
        [&, r, size] { std::memcpy(ranks[r].memory.data(), saved.streams[r]->data(), size); });
  }
  for (std::thread& t : threads) t.join();
  return static_cast<double>(bytes) / (now() - begin);
}

struct Case {
  std::string name;
  bool from_memory = false;
  std::vector<Rank> ranks;
  std::vector<double> rates;
  double read_share = 0;
};

// One load by all ranks, each a thread with an engine of its own.
void load_once(const Arguments& a, const Saved& saved, Case& c) {
  drop_cache(saved.file);
  const int size = static_cast<int>(c.ranks.size());
  Hub hub(size);
  std::vector<LoadReport> reports(c.ranks.size());
  std::vector<std::thread> threads;
  const double begin = now();
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      LoadOptions options;
      options.threads = a.threads;
      options.in_place = !a.staged;
      const auto i = static_cast<size_t>(r);
      if (c.from_memory) {
        options.threads = 1;
        need(load(*saved.memory, c.ranks[i].state, options, &reports[i]));
        return;
      }
      const auto engine = need(DiskEngine::create());
      const auto source = need(FolderSource::create(a.folder, saved.commit, engine));
      if (size == kSavers) {
        need(load(*source, c.ranks[i].state, options, &reports[i]));
      } else {
        ThreadExchange exchange(hub, r, size);
        need(load_together(*source, c.ranks[i].state, exchange, options, &reports[i]));
      }
    });
  }
  for (std::thread& t : threads) t.join();
  const double seconds = now() - begin;
  uint64_t wanted = 0, read = 0;
  for (size_t r = 0; r < c.ranks.size(); ++r) {
    wanted += c.ranks[r].bytes();
    read += reports[r].bytes_read;
    c.ranks[r].verify();
    c.ranks[r].clear();
  }
  c.rates.push_back(static_cast<double>(wanted) / seconds);
  c.read_share = static_cast<double>(read) / static_cast<double>(wanted);
}

void report(const Arguments& a, const Case& c, const std::vector<double>& limit,
            const char* limit_name) {
  const double value = median(c.rates), most = median(limit);
  std::vector<double> shares;  // of neighbours in time
  for (size_t i = 0; i < limit.size(); ++i) shares.push_back(c.rates[i] / limit[i]);
  std::printf(
      R"({"bench": "ckpt.load", "case": "%s", "metric": "rate_gib_s", "value": %.3f, "unit": "GiB/s", )"
      R"("limit": %.3f, "limit_name": "%s", "share_of_limit": %.3f, "share_pairwise": %.3f, )"
      R"("read_share": %.4f, "spread": [%.3f, %.3f], "mib": %zu, "runs": %zu, "load": %.1f})"
      "\n",
      c.name.c_str(), value / (1 << 30), most / (1 << 30), limit_name, value / most, median(shares),
      c.read_share, *std::min_element(c.rates.begin(), c.rates.end()) / (1 << 30),
      *std::max_element(c.rates.begin(), c.rates.end()) / (1 << 30), a.bytes >> 20, c.rates.size(),
      load_average());
  std::fflush(stdout);
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
      a.runs = std::max(1, std::atoi(value().c_str()));
    } else if (name == "--threads") {
      a.threads = std::atoi(value().c_str());
    } else if (name == "--staged") {
      a.staged = true;
    } else {
      std::fprintf(stderr, "unknown option %s\n", name.c_str());
      std::exit(64);
    }
  }
  a.folder += "/convoy-bench-load";
  return a;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments a = parse(argc, argv);
  const std::vector<Shape> shapes = shapes_of(a.bytes);
  const Saved saved = save(a, shapes);
  const bool have_fio = std::system("command -v fio > /dev/null") == 0;
  if (!have_fio) std::fprintf(stderr, "ckpt_load: fio is missing (Debian: fio): no limit by it\n");
  std::vector<Case> cases;
  for (const int ranks : {kSavers, 2, 8, 0}) {
    Case& c = cases.emplace_back();
    c.name = ranks == kSavers ? "same layout" : "4 to " + std::to_string(ranks);
    c.from_memory = ranks == 0;
    if (c.from_memory) c.name = "from memory";
    const int loaders = c.from_memory ? kSavers : ranks;
    for (int r = 0; r < loaders; ++r) {
      c.ranks.emplace_back(shapes, r, loaders);
      c.ranks.back().clear();
    }
  }
  std::vector<std::byte> plain(std::filesystem::file_size(saved.file));
  std::vector<double> theirs, preads, copies;
  for (int run = 0; run < a.runs; ++run) {
    if (have_fio && run % 2 == 0) theirs.push_back(fio(saved.file));
    for (Case& c : cases) load_once(a, saved, c);
    if (have_fio && run % 2 != 0) theirs.push_back(fio(saved.file));
    preads.push_back(plain_read(saved.file, plain));
    copies.push_back(copy_once(saved, cases.back().ranks));
  }
  const Case memory = std::move(cases.back());
  cases.pop_back();
  for (const Case& c : cases) {
    if (have_fio) report(a, c, theirs, "fio");
  }
  report(a, memory, copies, "memcpy");
  report(a, cases[0], preads, "pread");
  for (size_t i = 1; i < cases.size(); ++i) report(a, cases[i], cases[0].rates, "same layout");
  std::filesystem::remove_all(a.folder);
  return 0;
}
