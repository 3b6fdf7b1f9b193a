// One transfer of random bytes to or from an object store, for ckpt_remote.py:
//   ckpt_remote up|down URI MIB THREADS
// prints the seconds it took. Up: one file through a StoreWriter. Down: threads that read ranges of
// 4 MiB, as a load does.
#include <convoy/base/clock.h>
#include <convoy/ckpt/store.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace convoy::ckpt {
namespace {

constexpr size_t kBatch = size_t{4} << 20;

Status up(Store& store, uint64_t size) {
  std::vector<std::byte> bytes(size);
  std::mt19937_64 random(1);
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    __builtin_memcpy(bytes.data() + i, &word, 8);
  }
  const TimePoint begin = Clock::system().now();
  CONVOY_ASSIGN_OR_RETURN(const auto writer, store.open_writer("file"));
  for (size_t at = 0; at < size; at += kBatch) {
    CONVOY_RETURN_IF_ERROR(writer->append(std::span(bytes).subspan(at, kBatch)));
  }
  CONVOY_RETURN_IF_ERROR(writer->finish());
  std::printf("%.6f\n", std::chrono::duration<double>(Clock::system().now() - begin).count());
  return ok_status();
}

Status down(Store& store, uint64_t size, int threads) {
  std::vector<std::byte> bytes(size);
  std::atomic<uint64_t> next = 0;
  std::atomic<int> failed = 0;
  const TimePoint begin = Clock::system().now();
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) {
    team.emplace_back([&] {
      for (uint64_t at = next.fetch_add(kBatch); at < size; at = next.fetch_add(kBatch)) {
        if (!store.read_at("file", at, std::span(bytes).subspan(at, kBatch)).ok()) ++failed;
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  if (failed > 0) return {Code::kUnavailable, "a read failed"};
  std::printf("%.6f\n", std::chrono::duration<double>(Clock::system().now() - begin).count());
  return ok_status();
}

Status run(int argc, char** argv) {
  if (argc != 5) return {Code::kInvalidArgument, "usage: ckpt_remote up|down URI MIB THREADS"};
  CONVOY_ASSIGN_OR_RETURN(const auto store, open_store(argv[2]));
  const uint64_t size = std::strtoull(argv[3], nullptr, 10) << 20;
  return std::string(argv[1]) == "up" ? up(*store, size) : down(*store, size, std::atoi(argv[4]));
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  const convoy::Status status = convoy::ckpt::run(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  return status.ok() ? 0 : 1;
}
