// The fused kernel against the textbook formulas, written again in float64 one element at a time,
// on random values of awkward lengths; and that splitting a range changes no bit, which is what
// lets sharded and unsharded optimizers agree. Not checked: which vector width ran (the kernel
// forbids itself what would make them differ), and speed (make bench).
#include <convoy/parallel/data/adamw_kernel.h>
#include <convoy/parallel/data/lr_schedule.h>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace convoy::data;

namespace {

template <class T>
struct Buffers {
  std::vector<T> param, grad, m, v;

  explicit Buffers(size_t count, unsigned seed) : param(count), grad(count), m(count), v(count) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < count; ++i) {
      param[i] = static_cast<T>(normal(random));
      grad[i] = static_cast<T>(normal(random));
      m[i] = static_cast<T>(0.1 * normal(random));
      v[i] = static_cast<T>(0.01 * std::abs(normal(random)));
    }
  }
};

AdamWStep some_step() {
  return {.lr = 3e-3,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = 0.1,
          .bias1 = 1 - std::pow(0.9, 3),
          .bias2 = 1 - std::pow(0.95, 3),
          .grad_scale = 0.37};
}

double reference(double p, double g, double m, double v, const AdamWStep& s) {
  g *= s.grad_scale;
  m = s.beta1 * m + (1 - s.beta1) * g;
  v = s.beta2 * v + (1 - s.beta2) * g * g;
  p -= s.lr * s.weight_decay * p;
  return p - s.lr * (m / s.bias1) / (std::sqrt(v / s.bias2) + s.eps);
}

template <class T>
double worst_error(size_t count) {
  const Buffers<T> before(count, 7);
  Buffers<T> after = before;
  const AdamWStep step = some_step();
  adamw_update(after.param.data(), after.grad.data(), after.m.data(), after.v.data(), count, step);
  double worst = 0;
  for (size_t i = 0; i < count; ++i) {
    const double want = reference(before.param[i], before.grad[i], before.m[i], before.v[i], step);
    worst = std::max(worst, std::abs(after.param[i] - want) / std::max(1.0, std::abs(want)));
  }
  return worst;
}

}  // namespace

TEST_CASE("The fused update is AdamW") {
  for (const size_t count : {0, 1, 15, 16, 17, 1000, 4099}) {
    CAPTURE(count);
    CHECK(worst_error<double>(count) < 1e-14);
    // A handful of float32 roundings (2^-24 each) of values of order one.
    CHECK(worst_error<float>(count) < 8 * 5.97e-8);
  }
}

TEST_CASE("Splitting a range changes no bit") {
  const size_t count = 1003;
  Buffers<float> whole(count, 11);
  Buffers<float> parts = whole;
  const AdamWStep step = some_step();
  adamw_update(whole.param.data(), whole.grad.data(), whole.m.data(), whole.v.data(), count, step);
  for (size_t begin = 0, size = 1; begin < count; begin += size, size = size * 2 + 1) {
    const size_t n = std::min(size, count - begin);
    adamw_update(parts.param.data() + begin, parts.grad.data() + begin, parts.m.data() + begin,
                 parts.v.data() + begin, n, step);
  }
  CHECK(std::memcmp(whole.param.data(), parts.param.data(), count * sizeof(float)) == 0);
  CHECK(std::memcmp(whole.v.data(), parts.v.data(), count * sizeof(float)) == 0);
}

TEST_CASE("bfloat16 parameters are the rounded master weights") {
  const size_t count = 517;
  Buffers<float> plain(count, 13);
  Buffers<float> mixed = plain;
  std::vector<uint16_t> bits(count);
  const AdamWStep step = some_step();
  adamw_update(plain.param.data(), plain.grad.data(), plain.m.data(), plain.v.data(), count, step);
  adamw_update_bf16(bits.data(), mixed.param.data(), mixed.grad.data(), mixed.m.data(),
                    mixed.v.data(), count, step);
  CHECK(std::memcmp(plain.param.data(), mixed.param.data(), count * sizeof(float)) == 0);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t wide = static_cast<uint32_t>(bits[i]) << 16;
    float rounded = 0;
    std::memcpy(&rounded, &wide, sizeof rounded);
    // To nearest: at most half a unit of the 8 bits that a bfloat16 keeps.
    CHECK(std::abs(rounded - mixed.param[i]) <= std::abs(mixed.param[i]) * 0x1p-8);
  }
}

TEST_CASE("The sum of squares is the sum of squares") {
  const std::vector<float> threes(100, 3.0F);
  CHECK(sum_of_squares(threes.data(), 100) == 900.0);
  CHECK(sum_of_squares(threes.data(), 17) == 153.0);
  CHECK(sum_of_squares(threes.data(), 0) == 0.0);
  const std::vector<double> halves(33, 0.5);
  CHECK(sum_of_squares(halves.data(), 33) == 8.25);
}

TEST_CASE("The learning rate warms up, then falls along half a cosine") {
  const LrSchedule lr{.peak = 1.0, .floor = 0.1, .warmup_steps = 10, .total_steps = 110};
  CHECK(lr.at(0) == Approx(0.1));
  CHECK(lr.at(9) == Approx(1.0));
  CHECK(lr.at(10) == Approx(1.0));
  CHECK(lr.at(60) == Approx(0.55));
  CHECK(lr.at(110) == Approx(0.1));
  CHECK(lr.at(100000) == Approx(0.1));
  CHECK(LrSchedule{.peak = 2.0}.at(77) == 2.0);
}
