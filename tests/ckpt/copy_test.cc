// CopyPool against std::memcpy and xxh3() of base, for sizes around every border (block, chunk,
// batch), random cuts of the source, strides, misaligned memory, and 1 to 4 threads; each kernel
// that this processor has gives the same. Does not check speed (tests/bench/ckpt_io.cc does).
#include "ckpt/io/copy_checksum.h"
#include <convoy/base/checksum.h>
#include <convoy/ckpt/copy.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace convoy::ckpt {
namespace {

std::vector<std::byte> random_bytes(size_t size, uint32_t seed) {
  std::vector<std::byte> bytes(size);
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, size - i));
  }
  return bytes;
}

std::vector<uint64_t> sums_of(std::span<const std::byte> bytes) {
  std::vector<uint64_t> sums;
  for (size_t at = 0; at < bytes.size(); at += kChunkBytes) {
    sums.push_back(xxh3(bytes.subspan(at, std::min(kChunkBytes, bytes.size() - at))));
  }
  return sums;
}

// The runs, copied one by one.
std::vector<std::byte> gathered(const std::vector<SourceRun>& runs) {
  std::vector<std::byte> out;
  for (const SourceRun& run : runs) {
    for (size_t i = 0; i < run.count; ++i) {
      const std::byte* from = run.data + static_cast<ptrdiff_t>(i) * run.stride;
      out.insert(out.end(), from, from + run.bytes);
    }
  }
  return out;
}

// A destination with guards on both sides, `shift` bytes off a line.
struct Destination {
  Destination(size_t size, size_t shift)
      : memory(size + 256, std::byte{0xA5}), begin(0), size(size) {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    begin = (64 - address % 64) % 64 + 64 + shift;
  }
  std::span<std::byte> bytes() { return {memory.data() + begin, size}; }
  bool guards_whole() const {
    for (size_t i = 0; i < memory.size(); ++i) {
      if ((i < begin || i >= begin + size) && memory[i] != std::byte{0xA5}) return false;
    }
    return true;
  }
  std::vector<std::byte> memory;
  size_t begin, size;
};

void check_copy(CopyPool& pool, const std::vector<SourceRun>& runs, size_t shift) {
  const std::vector<std::byte> expected = gathered(runs);
  Destination to(expected.size(), shift);
  std::vector<uint64_t> sums(chunk_count(expected.size()));
  REQUIRE(pool.copy(runs, to.bytes(), sums).ok());
  REQUIRE(std::equal(expected.begin(), expected.end(), to.bytes().begin(), to.bytes().end()));
  REQUIRE(to.guards_whole());
  REQUIRE(sums == sums_of(expected));
  std::vector<uint64_t> again(sums.size());
  REQUIRE(pool.checksum(to.bytes(), again).ok());
  REQUIRE(again == sums);
}

TEST_CASE("a plain span of any size, at any alignment, by any number of threads") {
  const std::vector<std::byte> source = random_bytes(5 * 1024 * 1024 + 77, 1);
  for (const int threads : {1, 2, 4}) {
    auto pool = CopyPool::create(threads).value();
    for (const size_t size :
         {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{511}, size_t{512}, size_t{513},
          size_t{4095}, size_t{4096}, size_t{4097}, kChunkBytes - 1, kChunkBytes, kChunkBytes + 1,
          8 * kChunkBytes, 8 * kChunkBytes + 1, 9 * kChunkBytes + 4095, source.size() - 8}) {
      for (const size_t shift : {size_t{0}, size_t{1}, size_t{32}}) {
        INFO(threads << " threads, " << size << " bytes, shift " << shift);
        check_copy(*pool, {{source.data() + 3, size}}, shift);
      }
    }
  }
}

TEST_CASE("random cuts and strides of the source, empty runs among them") {
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::byte> source = random_bytes(6 * 1024 * 1024, seed);
  auto pool = CopyPool::create(3).value();
  for (int round = 0; round < 60; ++round) {
    const auto pick = [&](size_t low, size_t high) {
      return std::uniform_int_distribution<size_t>(low, high)(random);
    };
    std::vector<SourceRun> runs;
    const size_t size_max = size_t{1} << pick(0, 18);
    for (size_t n = pick(1, 40); n > 0; --n) {
      SourceRun run;
      run.bytes = pick(0, size_max);
      run.count = pick(0, 3) == 0 ? pick(0, 20) : 1;
      const size_t gap = pick(0, 100);
      while (run.count > 1 && (run.bytes + gap) * run.count > source.size()) run.count /= 2;
      run.stride = static_cast<ptrdiff_t>(run.bytes + gap);
      const size_t room = source.size() - (run.bytes + gap) * std::max<size_t>(run.count, 1);
      run.data = source.data() + pick(0, room);
      if (run.count > 1 && pick(0, 4) == 0) {  // backwards
        run.data += (run.count - 1) * static_cast<size_t>(run.stride);
        run.stride = -run.stride;
      }
      runs.push_back(run);
    }
    check_copy(*pool, runs, pick(0, 1) * 8);
  }
}

TEST_CASE("a mesh transfer's source side is a run") {
  const std::vector<std::byte> source = random_bytes(10000, 5);
  Transfer t;
  t.src_offset = 100;
  t.bytes = 48;
  t.count = 90;
  t.src_stride = 110;
  std::vector<std::byte> expected(static_cast<size_t>(t.total_bytes())), got(expected.size());
  pack(t, source.data(), expected.data());
  auto pool = CopyPool::create(1).value();
  std::vector<uint64_t> sums(1);
  const SourceRun run = source_run(t, source.data());
  REQUIRE(pool->copy({&run, 1}, got, sums).ok());
  REQUIRE(got == expected);
}

TEST_CASE("every kernel of this processor gives the same checksum and bytes") {
  std::vector<const CopyKernel*> kernels = {&kCopyKernelBase};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) kernels.push_back(&kCopyKernelAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
    kernels.push_back(&kCopyKernelAvx512);
  }
#endif
  const std::vector<std::byte> source = random_bytes(kChunkBytes + 8192, 9);
  for (const CopyKernel* kernel : kernels) {
    INFO(kernel->name);
    for (const size_t size : {size_t{1}, size_t{240}, size_t{241}, size_t{4096}, kChunkBytes - 5}) {
      Destination to(size, 0);
      HashState state;
      kernel->begin(state);
      const size_t half = size / 3;
      auto* out = reinterpret_cast<char*>(to.bytes().data());
      const auto* in = reinterpret_cast<const char*>(source.data());
      kernel->add(state, out, in, half);
      kernel->add(state, out + half, in + half, size - half);
      kernel->fence();
      REQUIRE(kernel->digest(state) == xxh3({source.data(), size}));
      REQUIRE(std::memcmp(out, in, size) == 0);
      REQUIRE(to.guards_whole());
    }
  }
}

TEST_CASE("sizes that don't fit together and odd numbers of threads are refused") {
  REQUIRE(CopyPool::create(0).status().code() == Code::kInvalidArgument);
  REQUIRE(CopyPool::create(kCopyThreadsMax + 1).status().code() == Code::kInvalidArgument);
  auto pool = CopyPool::create(2).value();
  std::vector<std::byte> from(100), to(99);
  std::vector<uint64_t> sums(1);
  const SourceRun run{from.data(), from.size()};
  REQUIRE(pool->copy({&run, 1}, to, sums).code() == Code::kInvalidArgument);
  to.resize(100);
  REQUIRE(pool->copy({&run, 1}, to, {}).code() == Code::kInvalidArgument);
  const SourceRun huge{from.data(), size_t{1} << 40, size_t{1} << 40, 0};
  REQUIRE(pool->copy({&huge, 1}, to, sums).code() == Code::kInvalidArgument);
  REQUIRE(pool->copy({&run, 1}, to, sums).ok());
}

TEST_CASE("callers on several threads are served one after the other") {
  const std::vector<std::byte> source = random_bytes(3 * 1024 * 1024, 11);
  const std::vector<uint64_t> expected = sums_of(source);
  auto pool = CopyPool::create(3).value();
  std::vector<std::thread> callers;
  std::atomic<int> good{0};
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      std::vector<std::byte> to(source.size());
      std::vector<uint64_t> sums(expected.size());
      const SourceRun run{source.data(), source.size()};
      for (int i = 0; i < 5; ++i) {
        if (pool->copy({&run, 1}, to, sums).ok() && sums == expected && to == source) ++good;
      }
    });
  }
  for (std::thread& t : callers) t.join();
  REQUIRE(good == 15);
}

}  // namespace
}  // namespace convoy::ckpt
