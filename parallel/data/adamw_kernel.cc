// The fused AdamW loop and the sum of squares. The compiler vectorises them; it makes one version
// for each x86-64 level and the loader picks one. Contraction to fused multiply-add is off for this
// file (CMakeLists.txt), which is what makes all versions give the same bits.
#include <convoy/parallel/data/adamw_kernel.h>

#include <bit>
#include <cmath>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CONVOY_VECTOR_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CONVOY_VECTOR_CLONES
#endif

namespace convoy::data {
namespace {

// Independent partial sums: enough for two 512-bit registers of float64.
constexpr size_t kLanes = 16;

// The step's numbers in the element's own type, with the bias corrections folded in.
template <class T>
struct Factors {
  explicit Factors(const AdamWStep& s)
      : keep(static_cast<T>(1 - s.lr * s.weight_decay)),
        beta1(static_cast<T>(s.beta1)),
        one_minus_beta1(static_cast<T>(1 - s.beta1)),
        beta2(static_cast<T>(s.beta2)),
        one_minus_beta2(static_cast<T>(1 - s.beta2)),
        eps(static_cast<T>(s.eps)),
        rate(static_cast<T>(s.lr / s.bias1)),
        root_bias2(static_cast<T>(std::sqrt(s.bias2))),
        grad_scale(static_cast<T>(s.grad_scale)) {}
  T keep, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, rate, root_bias2, grad_scale;
};

// One element; returns the new parameter.
template <class T>
__attribute__((always_inline)) inline T update_one(T param, T grad, T& m, T& v,
                                                   const Factors<T>& f) {
  const T g = grad * f.grad_scale;
  m = f.beta1 * m + f.one_minus_beta1 * g;
  v = f.beta2 * v + f.one_minus_beta2 * g * g;
  return f.keep * param - f.rate * m / (std::sqrt(v) / f.root_bias2 + f.eps);
}

template <class T>
__attribute__((always_inline)) inline void update_range(T* __restrict param,
                                                        const T* __restrict grad, T* __restrict m,
                                                        T* __restrict v, size_t count,
                                                        const AdamWStep& step) {
  const Factors<T> f(step);
  for (size_t i = 0; i < count; ++i) param[i] = update_one(param[i], grad[i], m[i], v[i], f);
}

__attribute__((always_inline)) inline uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
  return static_cast<uint16_t>(nan ? 0x7fc0U : rounded);
}

template <class T>
__attribute__((always_inline)) inline double squares(const T* __restrict data, size_t count) {
  double lane[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      const auto x = static_cast<double>(data[i + k]);
      lane[k] += x * x;
    }
  }
  for (size_t k = 0; i < count; ++i, ++k) {
    const auto x = static_cast<double>(data[i]);
    lane[k] += x * x;
  }
  double sum = 0;
  for (const double x : lane) sum += x;
  return sum;
}

}  // namespace

CONVOY_VECTOR_CLONES
void adamw_update(float* param, const float* grad, float* m, float* v, size_t count,
                  const AdamWStep& step) {
  update_range(param, grad, m, v, count, step);
}

CONVOY_VECTOR_CLONES
void adamw_update(double* param, const double* grad, double* m, double* v, size_t count,
                  const AdamWStep& step) {
  update_range(param, grad, m, v, count, step);
}

CONVOY_VECTOR_CLONES
void adamw_update_bf16(uint16_t* __restrict param, float* __restrict master,
                       const float* __restrict grad, float* __restrict m, float* __restrict v,
                       size_t count, const AdamWStep& step) {
  const Factors<float> f(step);
  for (size_t i = 0; i < count; ++i) {
    master[i] = update_one(master[i], grad[i], m[i], v[i], f);
    param[i] = to_bf16(master[i]);
  }
}

CONVOY_VECTOR_CLONES
double sum_of_squares(const float* data, size_t count) {
  return squares(data, count);
}

CONVOY_VECTOR_CLONES
double sum_of_squares(const double* data, size_t count) {
  return squares(data, count);
}

}  // namespace convoy::data
