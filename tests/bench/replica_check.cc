// What the comparison of replicas costs a rank in each step: ReplicaCheck::numbers() on parameters
// and two moments of a Llama-like model, on the CPU. By hand: replica_check [WIDTH LAYERS
// VOCABULARY]. One JSON line: bytes of the state, and of what one step hashes; medians of its time,
// and of a plain memcpy of as many bytes.
#include "src/runtime/replica_check.h"

#include <convoy/mesh/mesh.h>

#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {

constexpr int kSteps = 320, kPieces = 16;

std::vector<at::Tensor> state_of(int64_t width, int64_t layers, int64_t vocabulary) {
  std::vector<at::Tensor> state;
  const int64_t inner = 8 * width / 3;
  for (int kind = 0; kind < 3; ++kind) {  // parameters, two moments
    state.push_back(at::ones({vocabulary, width}));
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (int i = 0; i < 4; ++i) state.push_back(at::ones({width, width}));
      for (int i = 0; i < 3; ++i) state.push_back(at::ones({inner, width}));
      for (int i = 0; i < 2; ++i) state.push_back(at::ones({width}));
    }
    state.push_back(at::ones({width}));
    state.push_back(at::ones({vocabulary, width}));
  }
  return state;
}

double median_s(const std::function<void(int)>& work) {
  std::vector<double> times;
  for (int step = 0; step < kSteps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    work(step);
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + kSteps / 2, times.end());
  return times[kSteps / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t width = argc > 1 ? std::atoll(argv[1]) : 128;
  const int64_t layers = argc > 2 ? std::atoll(argv[2]) : 4;
  const int64_t vocabulary = argc > 3 ? std::atoll(argv[3]) : 256;
  const auto state = state_of(width, layers, vocabulary);
  const auto mesh = convoy::Mesh::parse("dp=8", 8);
  if (!mesh.ok()) return 1;
  convoy::runtime::ReplicaCheck check(*mesh, 0, kPieces);
  const double hash = median_s([&](int step) { check.numbers(step, state); });
  size_t bytes = 0;
  for (const at::Tensor& tensor : state) bytes += tensor.nbytes();
  std::vector<char> from(bytes / kPieces, 1), to(bytes / kPieces);
  const double copy = median_s([&](int) {
    std::memcpy(to.data(), from.data(), to.size());
    __asm__ volatile("" : : "r"(to.data()) : "memory");
  });
  std::printf(R"({"bench": "recover.replica_check", "state_mb": %.2f, "a_step_mb": %.3f, )"
              R"("hash_us": %.1f, "gb_per_s": %.2f, "memcpy_us": %.1f})"
              "\n",
              static_cast<double>(bytes) / 1e6, static_cast<double>(bytes) / kPieces / 1e6,
              hash * 1e6, static_cast<double>(bytes) / kPieces / hash / 1e9, copy * 1e6);
  return 0;
}
