// Every collective against a naive program: ranks are threads, all inputs are a function of (seed,
// rank, index), so each rank works out alone what it must receive. Swept: kind, number of ranks,
// counts (0, 1, 3, odd, around the border between small and large, large), placement of each rank's
// input and output (shared heap, private memory, in place), uneven parts. int32 so that the
// reference is exact; dtypes and reductions are host_reduce_test's matter. Not checked: speed.
#include "tests/comm/host_ranks.h"

#include <cstring>
#include <random>

using namespace convoy;
using namespace convoy::host;
using namespace convoy::host::testing;

namespace {

// Memory of one span, in the shared heap or private.
class Buffer {
 public:
  Buffer(Node& node, size_t count, bool shared) : node_(node), shared_(shared), count_(count) {
    const size_t bytes = std::max<size_t>(count, 1) * sizeof(int32_t);
    data_ = static_cast<int32_t*>(shared ? node.heap().allocate(bytes) : malloc(bytes));
    std::memset(data_, 0xee, bytes);
  }
  Buffer(Buffer&& other) noexcept
      : node_(other.node_), shared_(other.shared_), count_(other.count_), data_(other.data_) {
    other.data_ = nullptr;
  }
  ~Buffer() {
    if (data_ == nullptr) return;
    if (shared_) {
      node_.heap().deallocate(data_);
    } else {
      free(data_);
    }
  }
  int32_t* data() const { return data_; }
  Span span() const { return {count_ == 0 ? nullptr : data_, count_}; }
  Span part(size_t from, size_t count) const { return {data_ + from, count}; }

 private:
  Node& node_;
  bool shared_;
  size_t count_;
  int32_t* data_;
};

// What rank `from` sends to rank `to` (or to all: to = -1) at index i.
int32_t value(uint32_t seed, int from, int to, size_t i) {
  uint64_t x = (static_cast<uint64_t>(seed) << 32) ^ (from * 1000003ULL) ^ ((to + 2) * 7919ULL) ^
               (i * 0x9e3779b97f4a7c15ULL);
  x ^= x >> 31;
  x *= 0xbf58476d1ce4e5b9ULL;
  return static_cast<int32_t>(x >> 40);
}

void fill(int32_t* data, size_t count, uint32_t seed, int from, int to) {
  for (size_t i = 0; i < count; ++i) data[i] = value(seed, from, to, i);
}

struct Case {
  OpKind kind;
  uint32_t seed;
  size_t count;  // the typical part; uneven cases vary it by rank
  bool uneven;
  bool in_place;
  int root;
  unsigned shared_in, shared_out;  // a bit a rank

  size_t part(int from, int to) const {
    if (!uneven) return count;
    const auto r = static_cast<size_t>(value(seed + 1, from, to, 0));
    return r % 5 == 0 ? 0 : count * (r % 4) / 2;
  }
  std::string text(int n) const {
    return std::string(op_name(kind)) + " of " + std::to_string(n) + " ranks, count " +
           std::to_string(count) + (uneven ? ", uneven" : "") + (in_place ? ", in place" : "") +
           ", root " + std::to_string(root) + ", shared in " + std::to_string(shared_in) + " out " +
           std::to_string(shared_out) + ", seed " + std::to_string(seed);
  }
};

std::string compare(const int32_t* data, size_t count,
                    const std::function<int32_t(size_t)>& expected, const std::string& what) {
  for (size_t i = 0; i < count; ++i) {
    const int32_t e = expected(i);
    if (data[i] != e) {
      return what + ": element " + std::to_string(i) + " of " + std::to_string(count) + " is " +
             std::to_string(data[i]) + ", expected " + std::to_string(e);
    }
  }
  return "";
}

int32_t total(const Case& c, int n, int to, size_t i) {
  uint32_t sum = 0;
  for (int r = 0; r < n; ++r) sum += static_cast<uint32_t>(value(c.seed, r, to, i));
  return static_cast<int32_t>(sum);
}

std::string run_case(Rank& self, const Case& c) {
  const int n = self.size, me = self.rank;
  const bool in_shared = c.shared_in >> me & 1, out_shared = c.shared_out >> me & 1;
  Node& node = *self.node;
  std::vector<Buffer> in, out;
  Collective op = collective(c.kind, DType::kI32, {}, {}, c.root);
  const auto is_root = me == c.root;
  const auto add = [&](std::vector<Buffer>& list, std::vector<Span>& spans, size_t count,
                       bool shared) {
    list.emplace_back(node, count, shared);
    spans.push_back(list.back().span());
  };
  const auto finish = [&]() -> std::string {
    const Status done = self.group->run({&op, 1}, soon());
    return done.ok() ? "" : c.text(n) + ": " + done.to_string();
  };
  const std::string where = c.text(n) + ", rank " + std::to_string(me);
  switch (c.kind) {
    case OpKind::kBarrier:
      return finish();
    case OpKind::kBroadcast: {
      add(out, op.out, c.count, out_shared);
      if (is_root) fill(out[0].data(), c.count, c.seed, me, -1);
      if (auto e = finish(); !e.empty()) return e;
      return compare(
          out[0].data(), c.count, [&](size_t i) { return value(c.seed, c.root, -1, i); }, where);
    }
    case OpKind::kAllReduce:
    case OpKind::kReduce: {
      add(in, op.in, c.count, in_shared);
      fill(in[0].data(), c.count, c.seed, me, -1);
      const bool gets = c.kind == OpKind::kAllReduce || is_root;
      if (c.in_place) {
        op.out = op.in;
      } else if (gets) {
        add(out, op.out, c.count, out_shared);
      }
      if (auto e = finish(); !e.empty()) return e;
      if (!gets) return "";
      return compare(
          static_cast<int32_t*>(op.out[0].data), c.count,
          [&](size_t i) { return total(c, n, -1, i); }, where);
    }
    case OpKind::kAllGather:
    case OpKind::kGather: {
      const bool gets = c.kind == OpKind::kAllGather || is_root;
      if (gets) {
        for (int r = 0; r < n; ++r) add(out, op.out, c.part(r, -1), out_shared);
      }
      if (c.in_place && gets) {
        op.in = {op.out[me]};
      } else {
        add(in, op.in, c.part(me, -1), in_shared);
      }
      if (op.in[0].count != 0) {
        fill(static_cast<int32_t*>(op.in[0].data), op.in[0].count, c.seed, me, -1);
      }
      if (auto e = finish(); !e.empty()) return e;
      for (int r = 0; gets && r < n; ++r) {
        const auto e = compare(
            out[r].data(), c.part(r, -1), [&](size_t i) { return value(c.seed, r, -1, i); },
            where + ", part " + std::to_string(r));
        if (!e.empty()) return e;
      }
      return "";
    }
    case OpKind::kReduceScatter: {
      for (int r = 0; r < n; ++r) {
        add(in, op.in, c.part(0, r), in_shared);
        fill(in[r].data(), c.part(0, r), c.seed, me, r);
      }
      if (c.in_place) {
        op.out = {op.in[me]};
      } else {
        add(out, op.out, c.part(0, me), out_shared);
      }
      if (auto e = finish(); !e.empty()) return e;
      return compare(
          static_cast<int32_t*>(op.out[0].data), c.part(0, me),
          [&](size_t i) { return total(c, n, me, i); }, where);
    }
    case OpKind::kAllToAll: {
      for (int r = 0; r < n; ++r) {
        add(in, op.in, c.part(me, r), in_shared);
        fill(in[r].data(), c.part(me, r), c.seed, me, r);
        add(out, op.out, c.part(r, me), out_shared);
      }
      if (auto e = finish(); !e.empty()) return e;
      for (int r = 0; r < n; ++r) {
        const auto e = compare(
            out[r].data(), c.part(r, me), [&](size_t i) { return value(c.seed, r, me, i); },
            where + ", part " + std::to_string(r));
        if (!e.empty()) return e;
      }
      return "";
    }
    case OpKind::kScatter: {
      if (is_root) {
        for (int r = 0; r < n; ++r) {
          add(in, op.in, c.part(c.root, r), in_shared);
          fill(in[r].data(), c.part(c.root, r), c.seed, me, r);
        }
      }
      add(out, op.out, c.part(c.root, me), out_shared);
      if (auto e = finish(); !e.empty()) return e;
      return compare(
          out[0].data(), c.part(c.root, me), [&](size_t i) { return value(c.seed, c.root, me, i); },
          where);
    }
  }
  return "unknown kind";
}

constexpr OpKind kKinds[] = {OpKind::kBarrier,  OpKind::kBroadcast, OpKind::kAllReduce,
                             OpKind::kReduce,   OpKind::kAllGather, OpKind::kReduceScatter,
                             OpKind::kAllToAll, OpKind::kGather,    OpKind::kScatter};

std::vector<Case> cases(int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Case> list;
  const unsigned all = (1U << n) - 1;
  for (const size_t count : {0, 1, 3, 255, 1023, 2047, 2049, 20001, 70007, 300001}) {
    for (const OpKind kind : kKinds) {
      if (count > 100000 && n > 4) continue;
      Case c{kind,
             static_cast<uint32_t>(random()),
             count,
             random() % 3 == 0,
             random() % 3 == 0,
             static_cast<int>(random() % n),
             all,
             all};
      list.push_back(c);
      c.shared_in = c.shared_out = 0;
      list.push_back(c);
      c.shared_in = static_cast<unsigned>(random()) & all;
      c.shared_out = static_cast<unsigned>(random()) & all;
      list.push_back(c);
      c.uneven = !c.uneven;
      c.in_place = !c.in_place;
      c.shared_in = random() % 2 == 0 ? all : 0;
      c.shared_out = all & ~c.shared_in;
      list.push_back(c);
    }
  }
  return list;
}

}  // namespace

TEST_CASE("collectives give what a naive program gives", "[host]") {
  for (const int n : {1, 2, 3, 4, 8}) {
    const uint32_t seed = 20261123 + n;
    INFO("seed " << seed);
    const auto list = cases(n, seed);
    run_threads(n, [&](Rank& self) -> std::string {
      for (const Case& c : list) {
        if (auto e = run_case(self, c); !e.empty()) return e;
      }
      return "";
    });
  }
}

TEST_CASE("several collectives in one operation", "[host]") {
  for (const int n : {1, 2, 4}) {
    for (const size_t count : {5, 40000}) {
      run_threads(n, [&](Rank& self) -> std::string {
        std::vector<Buffer> buffers;
        std::vector<Collective> ops;
        for (int k = 0; k < 12; ++k) {
          buffers.emplace_back(*self.node, count, k % 3 != 0);
          fill(buffers.back().data(), count, k, self.rank, -1);
          const Span span = buffers.back().span();
          ops.push_back(k % 2 == 0
                            ? collective(OpKind::kAllReduce, DType::kI32, {span}, {span})
                            : collective(OpKind::kBroadcast, DType::kI32, {}, {span}, k % n));
        }
        const Status done = self.group->run(ops, soon());
        if (!done.ok()) return done.to_string();
        if (self.group->sequence() != 1) return "one operation has one number";
        for (int k = 0; k < 12; ++k) {
          Case c{};
          c.seed = k;
          const auto e = compare(
              buffers[k].data(), count,
              [&](size_t i) { return k % 2 == 0 ? total(c, n, -1, i) : value(k, k % n, -1, i); },
              "op " + std::to_string(k));
          if (!e.empty()) return e;
        }
        return "";
      });
    }
  }
}
