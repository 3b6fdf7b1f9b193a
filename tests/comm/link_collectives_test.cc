// All collectives over links (TCP, and unix sockets between ranks of one host), ranks as threads,
// each with its own endpoint. Every element of every output is compared bit by bit: moved bytes
// with their source, reductions with one call of the reduction kernel over all inputs in rank order
// (what the shared-memory engine computes). Inputs are random from a printed seed. Not checked
// here: the kernels' arithmetic, speed, and links between machines (link_netns_test.cc).
#include "src/comm/host/reduce_kernels.h"
#include "tests/comm/link_ranks.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <unistd.h>

using namespace convoy;
using namespace convoy::host;

namespace {

constexpr uint64_t kSeed = 20261123;

using Bytes = std::vector<char>;

// Values that every dtype can hold and add without surprises: small integers for most, random bits
// would be NaNs.
Bytes random_values(DType dtype, size_t count, uint64_t seed) {
  uint64_t state = kSeed ^ (seed * 0x9e3779b97f4a7c15ULL);
  // xorshift64*: cheap enough for the sanitizers.
  const auto random = [&state] {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dULL >> 16;
  };
  Bytes bytes(count * dtype_size(dtype));
  const auto fill = [&](auto zero, size_t n) {
    auto* values = reinterpret_cast<decltype(zero)*>(bytes.data());
    for (size_t i = 0; i < n; ++i) {
      values[i] = static_cast<decltype(zero)>(static_cast<double>(random() % 80'001) / 1e4 - 4);
    }
  };
  switch (dtype) {
    case DType::kF32:
    case DType::kC64:
      fill(float{}, bytes.size() / sizeof(float));
      break;
    case DType::kF64:
    case DType::kC128:
      fill(double{}, bytes.size() / sizeof(double));
      break;
    case DType::kBool:
      for (char& byte : bytes) byte = static_cast<char>(random() & 1);
      break;
    case DType::kF16:
    case DType::kBF16:
      for (size_t i = 0; i < count; ++i) {
        // Exponents around 1, any mantissa and sign.
        const uint16_t base = dtype == DType::kF16 ? 0x3800 : 0x3f00;
        const auto bits = static_cast<uint16_t>((base + (random() & 0x3ff)) | (random() & 0x8000));
        std::memcpy(bytes.data() + i * 2, &bits, 2);
      }
      break;
    default:
      for (char& byte : bytes) byte = static_cast<char>(random() % 5);
  }
  return bytes;
}

Bytes input_of(DType dtype, size_t count, int rank, int to = 0) {
  return random_values(dtype, count, static_cast<uint64_t>(rank) * 64 + static_cast<uint64_t>(to));
}

Bytes reduced(DType dtype, ReduceOp op, const std::vector<Bytes>& inputs,
              const std::vector<double>& factors) {
  auto kernel = find_reduce_kernel(dtype, op);
  CONVOY_CHECK(kernel.ok(), kernel.status().to_string());
  Bytes out(inputs[0].size());
  std::vector<const void*> sources;
  for (const Bytes& input : inputs) sources.push_back(input.data());
  void* target = out.data();
  (*kernel)({sources.data(), sources.size(), factors.data(), out.size() / dtype_size(dtype),
             &target, 1, false});
  return out;
}

struct Case {
  OpKind kind;
  DType dtype;
  ReduceOp reduce = ReduceOp::kSum;
  size_t count = 1;
  bool uneven = false;
  bool in_place = false;
  int root = 0;

  size_t count_of(int from, int to) const {
    return uneven ? count + static_cast<size_t>(from * 3 + to) * (count / 7 + 1) : count;
  }
  std::string name() const {
    return std::string(op_name(kind)) + " " + std::string(reduce_name(reduce)) + " " +
           std::string(dtype_name(dtype)) + " x" + std::to_string(count) +
           (uneven ? " uneven" : "") + (in_place ? " in place" : "") + " root " +
           std::to_string(root);
  }
};

// One rank's memory for one case: what goes in, what must come out.
struct Job {
  std::vector<Bytes> in, out, expected;
  Collective op;
};

void add_all(Job& job, const Case& c, int rank, int size) {
  const auto reducing = [&](size_t count, int to) {
    std::vector<Bytes> inputs;
    std::vector<double> factors;
    for (int r = 0; r < size; ++r) {
      inputs.push_back(input_of(c.dtype, count, r, to));
      factors.push_back(0.5 + r);
    }
    return reduced(c.dtype, c.reduce, inputs, factors);
  };
  const bool root = rank == c.root;
  const auto out_of = [&](const Bytes& expected) {
    job.expected.push_back(expected);
    job.out.emplace_back(expected.size(), char{0x55});
  };
  switch (c.kind) {
    case OpKind::kBarrier:
      break;
    case OpKind::kBroadcast:
      out_of(input_of(c.dtype, c.count, c.root));
      if (root) job.out[0] = job.expected[0];
      break;
    case OpKind::kAllReduce:
    case OpKind::kReduce:
      job.in.push_back(input_of(c.dtype, c.count, rank));
      if (c.kind == OpKind::kAllReduce || root) out_of(reducing(c.count, 0));
      break;
    case OpKind::kAllGather:
    case OpKind::kGather:
      job.in.push_back(input_of(c.dtype, c.count_of(rank, 0), rank));
      if (c.kind == OpKind::kGather && !root) break;
      for (int r = 0; r < size; ++r) out_of(input_of(c.dtype, c.count_of(r, 0), r));
      break;
    case OpKind::kReduceScatter:
      for (int r = 0; r < size; ++r) {
        job.in.push_back(input_of(c.dtype, c.count_of(0, r), rank, r));
      }
      out_of(reducing(c.count_of(0, rank), rank));
      break;
    case OpKind::kAllToAll:
      for (int r = 0; r < size; ++r) {
        job.in.push_back(input_of(c.dtype, c.count_of(rank, r), rank, r));
        out_of(input_of(c.dtype, c.count_of(r, rank), r, rank));
      }
      break;
    case OpKind::kScatter:
      if (root) {
        for (int r = 0; r < size; ++r) {
          job.in.push_back(input_of(c.dtype, c.count_of(0, r), c.root, r));
        }
      }
      out_of(input_of(c.dtype, c.count_of(0, rank), c.root, rank));
      break;
  }
}

void prepare(Job& job, const Case& c, int rank, int size) {
  add_all(job, c, rank, size);
  job.op.kind = c.kind;
  job.op.dtype = c.dtype;
  job.op.reduce = c.reduce;
  job.op.premul = 0.5 + rank;
  job.op.root = c.root;
  const size_t element = dtype_size(c.dtype);
  for (Bytes& bytes : job.in) job.op.in.push_back({bytes.data(), bytes.size() / element});
  for (Bytes& bytes : job.out) job.op.out.push_back({bytes.data(), bytes.size() / element});
  if (!c.in_place || job.op.out.empty()) return;
  if (c.kind == OpKind::kAllReduce || c.kind == OpKind::kReduce) {
    job.out[0] = job.in[0];
    job.op.in[0].data = job.op.out[0].data = job.out[0].data();
  } else if (c.kind == OpKind::kAllGather) {
    job.out[rank] = job.in[0];
    job.op.in[0].data = job.op.out[rank].data = job.out[rank].data();
  } else if (c.kind == OpKind::kReduceScatter) {
    job.out[0] = job.in[rank];
    job.op.in[rank].data = job.op.out[0].data = job.out[0].data();
  }
}

std::string check(const Job& job, const Case& c) {
  for (size_t i = 0; i < job.out.size(); ++i) {
    if (job.out[i] == job.expected[i]) continue;
    const auto at = std::mismatch(job.out[i].begin(), job.out[i].end(), job.expected[i].begin());
    return c.name() + ": output " + std::to_string(i) + " differs at byte " +
           std::to_string(at.first - job.out[i].begin());
  }
  return "";
}

std::string perform(Group& group, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    Job job;
    prepare(job, c, group.rank(), group.size());
    const Status status = group.run({&job.op, 1}, soon());
    if (!status.ok()) return c.name() + ": " + status.to_string();
    if (std::string wrong = check(job, c); !wrong.empty()) return wrong;
  }
  return "";
}

constexpr OpKind kKinds[] = {OpKind::kBarrier,  OpKind::kBroadcast, OpKind::kAllReduce,
                             OpKind::kReduce,   OpKind::kAllGather, OpKind::kReduceScatter,
                             OpKind::kAllToAll, OpKind::kGather,    OpKind::kScatter};

std::vector<Case> small_cases(int size) {
  std::vector<Case> cases;
  for (const OpKind kind : kKinds) {
    for (const DType dtype : {DType::kU8, DType::kI32, DType::kI64, DType::kF16, DType::kBF16,
                              DType::kF32, DType::kF64, DType::kBool, DType::kC64}) {
      for (const size_t count : {0, 1, 3, 1000}) {
        cases.push_back({kind, dtype, ReduceOp::kSum, count, count % 2 == 1, count == 1000,
                         static_cast<int>(count) % size});
      }
    }
  }
  for (const ReduceOp op :
       {ReduceOp::kAvg, ReduceOp::kProduct, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kPremulSum}) {
    for (const OpKind kind : {OpKind::kAllReduce, OpKind::kReduce, OpKind::kReduceScatter}) {
      cases.push_back({kind, DType::kF32, op, 333});
      cases.push_back({kind, DType::kBF16, op, 20000});
    }
  }
  return cases;
}

std::vector<Case> large_cases(int size) {
  std::vector<Case> cases;
  for (const OpKind kind : kKinds) {
    cases.push_back({kind, DType::kF32, ReduceOp::kSum, 70'001, false, false, size - 1});
    cases.push_back({kind, DType::kF32, ReduceOp::kSum, 40'001, true, true, 0});
    cases.push_back({kind, DType::kBF16, ReduceOp::kPremulSum, 60'007, true, false, 0});
    // Long enough that a reduction's window of chunks fills, with two ranks.
    const bool reduces = kind == OpKind::kAllReduce || kind == OpKind::kReduce;
    if (reduces) cases.push_back({kind, DType::kF64, ReduceOp::kSum, 700'001, false, true, 1});
  }
  return cases;
}

// Connected unix sockets of this process's link endpoints.
int local_connections() {
  const std::string name = "@convoy-link-" + std::to_string(getpid()) + "-";
  std::ifstream table("/proc/net/unix");
  int connected = 0;
  for (std::string line; std::getline(table, line);) {
    // Num RefCount Protocol Flags Type St Inode Path; state 03 is "connected".
    std::istringstream fields(line);
    std::string number, references, protocol, flags, type, state;
    fields >> number >> references >> protocol >> flags >> type >> state;
    connected += line.find(name) != std::string::npos && state == "03";
  }
  return connected;
}

}  // namespace

TEST_CASE("collectives over links equal the reference") {
  const int size = GENERATE(2, 3, 5);
  INFO("seed " << kSeed << ", ranks " << size);
  LinkRanks ranks;
  ranks.size = size;
  CHECK(ranks.run([&](int, Group& group) { return perform(group, small_cases(size)); }) == "");
}

TEST_CASE("large collectives over links equal the reference") {
  const int size = GENERATE(2, 4);
  const int streams = GENERATE(1, 4);
  INFO("seed " << kSeed << ", ranks " << size << ", streams " << streams);
  LinkRanks ranks;
  ranks.size = size;
  ranks.streams = streams;
  ranks.ranks_per_host = GENERATE(1, 2);
  CHECK(ranks.run([&](int, Group& group) { return perform(group, large_cases(size)); }) == "");
}

TEST_CASE("several collectives in one operation") {
  LinkRanks ranks;
  ranks.size = 3;
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::vector<Case> cases = large_cases(3);
    for (const Case& c : small_cases(3)) {
      if (c.dtype == DType::kF32) cases.push_back(c);
    }
    std::vector<Job> jobs(cases.size());
    std::vector<Collective> ops;
    for (size_t i = 0; i < cases.size(); ++i) {
      prepare(jobs[i], cases[i], rank, 3);
      ops.push_back(jobs[i].op);
    }
    if (const Status status = group.run(ops, soon()); !status.ok()) {
      return status.to_string();
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      if (std::string wrong = check(jobs[i], cases[i]); !wrong.empty()) return wrong;
    }
    return group.sequence() == 1 ? "" : "wrong sequence";
  }) == "");
}

TEST_CASE("many operations in a row, ranks at different speeds") {
  LinkRanks ranks;
  ranks.size = 4;
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::mt19937 random(static_cast<unsigned>(kSeed) + static_cast<unsigned>(rank));
    const std::vector<Case> cases = small_cases(4);
    for (int i = 0; i < 300; ++i) {
      if (random() % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const Case& c = cases[static_cast<size_t>(i * 7) % cases.size()];
      if (std::string wrong = perform(group, {c}); !wrong.empty()) return wrong;
    }
    return "";
  }) == "");
}

TEST_CASE("groups made by Group::create whose ranks share some hosts") {
  const std::string hosts = GENERATE(as<std::string>{}, "aabb", "abab", "aaab");
  INFO("seed " << kSeed << ", hosts " << hosts);
  const int size = static_cast<int>(hosts.size());
  LocalStore store;
  std::vector<std::string> texts(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      NodeOptions node;
      node.heap_bytes = size_t{64} << 20;
      node.address = "127.0.0.1";
      node.tcp_streams = 4 - r;  // the group uses the smallest number
      node.host_id = hosts.substr(r, 1);
      GroupOptions options;
      options.name = "mixed";
      auto group = Group::create(Node::create(node).value(), store, r, size, options);
      if (!group.ok()) {
        texts[r] = group.status().to_string();
        return;
      }
      if ((*group)->is_local()) texts[r] = "the group says that it is local";
      if (texts[r].empty()) texts[r] = perform(**group, small_cases(size));
      if (texts[r].empty()) texts[r] = perform(**group, large_cases(size));
      // Nobody has left yet.
      if (texts[r].empty() && local_connections() == 0) texts[r] = "no unix sockets are in use";
      const Collective barrier;
      if (texts[r].empty()) texts[r] = (*group)->run({&barrier, 1}, soon()).message();
    });
  }
  for (auto& thread : threads) thread.join();
  for (int r = 0; r < size; ++r) {
    INFO("rank " << r);
    CHECK(texts[r] == "");
  }
}
