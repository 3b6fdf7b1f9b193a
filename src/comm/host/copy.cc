// Streaming copies. The widest store that the processor has is chosen once.
#include "src/comm/host/copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convoy::host {

#if defined(__x86_64__)
namespace {

constexpr size_t kLine = 64;

__attribute__((target("avx512f"))) void stream_lines_avx512(char* to, const char* from,
                                                            size_t lines) {
  for (size_t i = 0; i < lines; ++i, to += kLine, from += kLine) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
  }
}

__attribute__((target("avx"))) void stream_lines_avx(char* to, const char* from, size_t lines) {
  for (size_t i = 0; i < lines; ++i, to += kLine, from += kLine) {
    const auto* in = reinterpret_cast<const __m256i*>(from);
    auto* out = reinterpret_cast<__m256i*>(to);
    const __m256i low = _mm256_loadu_si256(in), high = _mm256_loadu_si256(in + 1);
    _mm256_stream_si256(out, low);
    _mm256_stream_si256(out + 1, high);
  }
}

void stream_lines_sse2(char* to, const char* from, size_t lines) {
  for (size_t i = 0; i < lines; ++i, to += kLine, from += kLine) {
    for (int part = 0; part < 4; ++part) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to) + part,
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + part));
    }
  }
}

using StreamLines = void (*)(char*, const char*, size_t);

StreamLines best_stream() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return stream_lines_avx512;
  if (__builtin_cpu_supports("avx")) return stream_lines_avx;
  return stream_lines_sse2;
}

}  // namespace

void stream_copy(void* to, const void* from, size_t bytes) {
  static const StreamLines stream = best_stream();
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(out) % kLine) % kLine;
  if (bytes < head + 4 * kLine) {
    std::memcpy(out, in, bytes);
    return;
  }
  std::memcpy(out, in, head);
  const size_t lines = (bytes - head) / kLine;
  stream(out + head, in + head, lines);
  const size_t done = head + lines * kLine;
  std::memcpy(out + done, in + done, bytes - done);
}

void stream_fence() {
  _mm_sfence();
}
#else
void stream_copy(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

void stream_fence() {}
#endif

}  // namespace convoy::host
