#pragma once

#include <array>
#include <cmath>
#include <cstdint>

// Random numbers that are the same on all machines and compilers.
namespace convoy::sim {

inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
inline uint64_t mix(uint64_t a, uint64_t b) {
  return mix(a ^ mix(b));
}

// splitmix64: small enough for each rank to have its own.
class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}
  uint64_t next() {
    const uint64_t value = mix(state_);
    state_ += 0x9e3779b97f4a7c15;
    return value;
  }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // In [0, n).
  uint64_t below(uint64_t n) { return next() % n; }
  bool chance(double p) { return uniform() < p; }
  double exponential(double mean) { return -mean * std::log(1 - uniform()); }

 private:
  uint64_t state_;
};

// Factors of a lognormal distribution with median 1, drawn from a table: one draw costs a lookup.
class Jitter {
 public:
  explicit Jitter(double sigma);
  float draw(Random& random) const { return table_[random.next() >> 52]; }

 private:
  std::array<float, 4096> table_;
};

}  // namespace convoy::sim
