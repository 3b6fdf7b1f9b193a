// Method: four ranks, processes, perform every collective and message with every type and operator;
// each compares its result with a simple loop over what all ranks put in. Values are small enough
// for every sum, product and average to be exact in every type, so that equality is asked for.
// Not checked: rounding, overflow, speed; groups and streams (nccl_communicator_test.cc).
#include "tests/standin/nccl_ranks.h"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>

namespace convoy::standin::nccl {
namespace {

constexpr int kRanks = 4;
constexpr size_t kCount = 9001;  // several tiles for each rank, and a rest

struct Type {
  ncclDataType_t type;
  size_t bytes;
  int exponent_bits, mantissa_bits;  // 0: an integer
};
constexpr Type kTypes[] = {
    {ncclInt8, 1, 0, 0},     {ncclUint8, 1, 0, 0},      {ncclInt32, 4, 0, 0},
    {ncclUint32, 4, 0, 0},   {ncclInt64, 8, 0, 0},      {ncclUint64, 8, 0, 0},
    {ncclFloat16, 2, 5, 10}, {ncclFloat32, 4, 8, 23},   {ncclFloat64, 8, 11, 52},
    {ncclBfloat16, 2, 8, 7}, {ncclFloat8e4m3, 1, 4, 3}, {ncclFloat8e5m2, 1, 5, 2}};

// The value as the type has it; exact values only.
uint64_t encoded(const Type& type, double value) {
  const auto number = static_cast<int64_t>(value);  // integers: truncated
  if (type.exponent_bits == 0) return static_cast<uint64_t>(number);
  if (value == 0) return 0;
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent) * 2 - 1;  // value = (1 + f) * 2^(e - 1)
  const uint64_t bias = (uint64_t{1} << (type.exponent_bits - 1)) - 1;
  const uint64_t biased = bias + static_cast<uint64_t>(static_cast<int64_t>(exponent - 1));
  return biased << type.mantissa_bits |
         static_cast<uint64_t>(std::ldexp(fraction, type.mantissa_bits));
}

using Values = std::vector<double>;
using Bytes = DeviceArray<uint8_t>;

std::vector<uint8_t> encoded(const Type& type, const Values& values) {
  std::vector<uint8_t> bytes(values.size() * type.bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t bits = encoded(type, values[i]);
    std::memcpy(bytes.data() + i * type.bytes, &bits, type.bytes);
  }
  return bytes;
}

// What a rank puts in: 0, 1 or 2, in an order of its own.
Values input_of(int rank, size_t count, int below = 3) {
  Values values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<double>((i * 7 + i / 3 + static_cast<size_t>(rank) * 5) %
                                    static_cast<size_t>(below));
  }
  return values;
}

Values part(const Values& values, size_t block, size_t count) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(block * count);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

struct Operator {
  ncclRedOp_t op;
  double (*fold)(double, double);
};
const Operator kOperators[] = {{ncclSum, [](double a, double b) { return a + b; }},
                               {ncclProd, [](double a, double b) { return a * b; }},
                               {ncclMax, [](double a, double b) { return std::max(a, b); }},
                               {ncclMin, [](double a, double b) { return std::min(a, b); }},
                               {ncclAvg, [](double a, double b) { return a + b; }}};

Values reduced(const Operator& op, size_t count) {
  Values result = input_of(0, count);
  for (int r = 1; r < kRanks; ++r) {
    const Values next = input_of(r, count);
    for (size_t i = 0; i < count; ++i) result[i] = op.fold(result[i], next[i]);
  }
  for (double& value : result) value = op.op == ncclAvg ? value / kRanks : value;
  return result;
}

class Checker {
 public:
  explicit Checker(Rank& rank) : rank_(rank), comm_(rank.make()) {}
  ~Checker() { OK(ncclCommDestroy(comm_)); }

  // The call's result in a buffer of `expected`'s size, which begins as rubbish.
  template <typename Call>
  void check(const Type& type, const Values& input, const Values& expected, Call call) {
    const Bytes send(encoded(type, input));
    const Bytes recv(expected.size() * type.bytes, 0x5a);
    OK(call(send.data(), recv.data()));
    stream_.wait();
    EXPECT(recv.values() == encoded(type, expected));
  }

  void reductions(const Type& type, const Operator& op) {
    const int root = static_cast<int>(op.op) % kRanks;
    const auto n = static_cast<size_t>(kRanks), me = static_cast<size_t>(rank_.rank);
    check(type, input_of(rank_.rank, kCount), reduced(op, kCount), [&](void* s, void* r) {
      return ncclAllReduce(s, r, kCount, type.type, op.op, comm_, stream_);
    });
    check(type, input_of(rank_.rank, kCount * n), part(reduced(op, kCount * n), me, kCount),
          [&](void* s, void* r) {
            return ncclReduceScatter(s, r, kCount, type.type, op.op, comm_, stream_);
          });
    const Values at_root = rank_.rank == root ? reduced(op, kCount) : Values();
    check(type, input_of(rank_.rank, kCount), at_root, [&](void* s, void* r) {
      return ncclReduce(s, rank_.rank == root ? r : nullptr, kCount, type.type, op.op, root, comm_,
                        stream_);
    });
  }

  void copies(const Type& type) {
    const size_t n = kRanks, me = static_cast<size_t>(rank_.rank);
    const int root = static_cast<int>(type.type) % kRanks;
    const Values mine = input_of(rank_.rank, kCount), many = input_of(rank_.rank, kCount * n);
    const auto of_all = [&](const std::function<Values(int)>& of) {
      Values all;
      for (int r = 0; r < kRanks; ++r) {
        const Values one = of(r);
        all.insert(all.end(), one.begin(), one.end());
      }
      return all;
    };
    const Values gathered = of_all([](int r) { return input_of(r, kCount); });
    check(type, mine, gathered,
          [&](void* s, void* r) { return ncclAllGather(s, r, kCount, type.type, comm_, stream_); });
    check(type, many, of_all([&](int r) { return part(input_of(r, kCount * n), me, kCount); }),
          [&](void* s, void* r) { return ncclAlltoAll(s, r, kCount, type.type, comm_, stream_); });
    check(type, mine, input_of(root, kCount), [&](void* s, void* r) {
      return ncclBroadcast(rank_.rank == root ? s : nullptr, r, kCount, type.type, root, comm_,
                           stream_);
    });
    check(type, mine, rank_.rank == root ? gathered : Values(), [&](void* s, void* r) {
      return ncclGather(s, r, kCount, type.type, root, comm_, stream_);
    });
    check(type, many, part(input_of(root, kCount * n), me, kCount), [&](void* s, void* r) {
      return ncclScatter(rank_.rank == root ? s : nullptr, r, kCount, type.type, root, comm_,
                         stream_);
    });
    const int next = (rank_.rank + 1) % kRanks, previous = (rank_.rank + kRanks - 1) % kRanks;
    check(type, mine, input_of(previous, kCount), [&](void* s, void* r) {
      OK(ncclGroupStart());
      OK(ncclSend(s, kCount, type.type, next, comm_, stream_));
      OK(ncclRecv(r, kCount, type.type, previous, comm_, stream_));
      return ncclGroupEnd();
    });
    premultiplied(type, ncclScalarHostImmediate);
    premultiplied(type, ncclScalarDevice);
  }

  // Rank 0's part counts twice.
  void premultiplied(const Type& type, ncclScalarResidence_t residence) {
    Values expected(kCount, 0);
    for (int r = 0; r < kRanks; ++r) {
      const Values one = input_of(r, kCount, 2);
      for (size_t i = 0; i < kCount; ++i) expected[i] += (r == 0 ? 2 : 1) * one[i];
    }
    std::vector<uint8_t> factor = encoded(type, Values{rank_.rank == 0 ? 2.0 : 1.0});
    const Bytes on_device(factor);
    ncclRedOp_t op;
    void* scalar = residence == ncclScalarDevice ? static_cast<void*>(on_device.data())
                                                 : static_cast<void*>(factor.data());
    OK(ncclRedOpCreatePreMulSum(&op, scalar, type.type, residence, comm_));
    if (residence == ncclScalarHostImmediate) std::memset(factor.data(), 0, factor.size());
    check(type, input_of(rank_.rank, kCount, 2), expected, [&](void* s, void* r) {
      const ncclResult_t result = ncclAllReduce(s, r, kCount, type.type, op, comm_, stream_);
      OK(ncclRedOpDestroy(op, comm_));  // as documented: once the call has returned
      return result;
    });
    EXPECT(ncclRedOpDestroy(op, comm_) == ncclInvalidArgument);
  }

  // What NCCL calls in place.
  void in_place() {
    const Type& type = kTypes[2];
    const size_t n = kRanks, me = static_cast<size_t>(rank_.rank), block = kCount * type.bytes;
    const Values many = input_of(rank_.rank, kCount * n);
    const auto check_in_place = [&](const Values& begin, auto call, size_t at, const Values& seen) {
      const Bytes buffer(encoded(type, begin));
      OK(call(buffer.data()));
      stream_.wait();
      const std::vector<uint8_t> all = buffer.values(), wanted = encoded(type, seen);
      EXPECT(std::memcmp(all.data() + at, wanted.data(), wanted.size()) == 0);
    };
    const Values sum = reduced(kOperators[0], kCount * n);
    check_in_place(
        many,
        [&](uint8_t* b) {
          return ncclAllReduce(b, b, kCount * n, type.type, ncclSum, comm_, stream_);
        },
        0, sum);
    check_in_place(
        many,
        [&](uint8_t* b) {
          return ncclReduceScatter(b, b + me * block, kCount, type.type, ncclSum, comm_, stream_);
        },
        me * block, part(sum, me, kCount));
    Values gathered;
    for (int r = 0; r < kRanks; ++r) {
      const Values one = part(input_of(r, kCount * n), static_cast<size_t>(r), kCount);
      gathered.insert(gathered.end(), one.begin(), one.end());
    }
    check_in_place(
        many,
        [&](uint8_t* b) {
          return ncclAllGather(b + me * block, b, kCount, type.type, comm_, stream_);
        },
        0, gathered);
    check_in_place(
        many, [&](uint8_t* b) { return ncclBcast(b, kCount * n, type.type, 2, comm_, stream_); }, 0,
        input_of(2, kCount * n));
  }

 private:
  Rank& rank_;
  const ncclComm_t comm_;
  const CudaStream stream_;
};

void require_well(const Outcome& outcome) {
  INFO(outcome.all());
  REQUIRE(outcome.is_well());
  REQUIRE_FALSE(outcome.says("convoy stand-in:"));  // no findings
}

TEST_CASE("reductions: every type with every operator") {
  require_well(run_ranks(kRanks, [](Rank& rank) {
    Checker checker(rank);
    for (const Type& type : kTypes) {
      for (const Operator& op : kOperators) checker.reductions(type, op);
    }
  }));
}

TEST_CASE("copies, messages and premultiplied sums: every type") {
  require_well(run_ranks(kRanks, [](Rank& rank) {
    Checker checker(rank);
    for (const Type& type : kTypes) checker.copies(type);
  }));
}

TEST_CASE("collectives in place") {
  require_well(run_ranks(kRanks, [](Rank& rank) { Checker(rank).in_place(); }));
}

TEST_CASE("no delay that CUDA leaves open changes a result: 200 seeds") {
  for (int seed = 1; seed <= 200; ++seed) {
    INFO("seed " << seed);
    require_well(
        run_ranks(2,
                  [](Rank& rank) {
                    const ncclComm_t comm = rank.make();
                    const CudaStream first, second;
                    const Floats a(64, 1), b(64, 0);
                    cudaEvent_t event;
                    CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
                    OK(ncclAllReduce(a.data(), a.data(), 64, ncclFloat32, ncclSum, comm, first));
                    CUDA(cudaEventRecord(event, first));
                    CUDA(cudaStreamWaitEvent(second, event, 0));
                    OK(ncclGroupStart());
                    OK(ncclSend(a.data(), 64, ncclFloat32, 1 - rank.rank, comm, second));
                    OK(ncclRecv(b.data(), 64, ncclFloat32, 1 - rank.rank, comm, second));
                    OK(ncclGroupEnd());
                    OK(ncclAllReduce(b.data(), a.data(), 64, ncclFloat32, ncclSum, comm, second));
                    second.wait();
                    EXPECT(all_are(a, 4));
                    OK(ncclCommDestroy(comm));
                  },
                  {{"CONVOY_STANDIN_SEED", std::to_string(seed)}}));
  }
}

TEST_CASE("one rank alone: everything is a copy") {
  require_well(run_ranks(1, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    const Floats in(100, 3), out(100, 0);
    OK(ncclAllReduce(in.data(), out.data(), 100, ncclFloat32, ncclAvg, comm, stream));
    stream.wait();
    EXPECT(all_are(out, 3));
    OK(ncclGroupStart());
    OK(ncclRecv(in.data(), 50, ncclFloat32, 0, comm, stream));
    OK(ncclSend(out.data(), 50, ncclFloat32, 0, comm, stream));
    OK(ncclGroupEnd());
    EXPECT(ncclSend(out.data(), 50, ncclFloat32, 0, comm, stream) == ncclInvalidUsage);
    stream.wait();
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("what one rank can see is refused at once") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    const Floats data(8, 1);
    float* d = data.data();
    const auto reduce = [&](int type, int op, int root) {
      return ncclReduce(d, d, 8, static_cast<ncclDataType_t>(type), static_cast<ncclRedOp_t>(op),
                        root, comm, stream);
    };
    EXPECT(reduce(ncclNumTypes, ncclSum, 0) == ncclInvalidArgument);
    EXPECT(reduce(ncclFloat32, ncclNumOps + 7, 0) == ncclInvalidArgument);
    EXPECT(reduce(ncclFloat32, ncclSum, 2) == ncclInvalidArgument);
    EXPECT(ncclSend(d, 8, ncclFloat32, -1, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclAllReduce(d, d, 8, ncclFloat32, ncclSum, nullptr, stream) == ncclInvalidArgument);
    // A group with such a call does nothing at all.
    OK(ncclGroupStart());
    OK(ncclAllReduce(d, d, 8, ncclFloat32, ncclSum, comm, stream));
    EXPECT(ncclSend(d, 8, ncclFloat32, 9, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclGroupEnd() == ncclInvalidArgument);
    stream.wait();
    EXPECT(all_are(data, 1));
    EXPECT(ncclGroupEnd() == ncclInvalidUsage);
    OK(ncclAllReduce(d, d, 0, ncclFloat32, ncclSum, comm, stream));  // nobody is met
    OK(ncclCommDestroy(comm));
    EXPECT(ncclCommDestroy(comm) == ncclInvalidArgument);
    EXPECT(ncclAllReduce(d, d, 8, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    OK(ncclCommDestroy(nullptr));
  }));
}

TEST_CASE("buffers of the host or of another device are refused, with a finding") {
  const Outcome outcome = run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    float host[8] = {};
    EXPECT(ncclAllReduce(host, host, 8, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    CUDA(cudaSetDevice(1 - rank.rank));
    const Floats other(8, 1);
    CUDA(cudaSetDevice(rank.rank));
    EXPECT(ncclAllReduce(other.data(), other.data(), 8, ncclFloat32, ncclSum, comm, stream) ==
           ncclInvalidArgument);
    OK(ncclCommDestroy(comm));
  });
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("wrong device: ncclAllReduce on communicator"));
  CHECK(outcome.says("the send buffer is memory of the host"));
  CHECK(outcome.says("the send buffer is memory of device 1, but the communicator is on device 0"));
}

}  // namespace
}  // namespace convoy::standin::nccl
