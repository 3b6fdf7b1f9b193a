#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace convoy::parallel {

// Whether the hand-written kernels take this tensor.
inline bool has_kernel(const at::Tensor& t) {
  return t.is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble);
}

// Runs f(begin, end) over [0, n) on torch's intra-op threads; `cost` is about the number of
// elements an item touches, so that small jobs stay on one thread.
template <class F>
void parallel_rows(int64_t n, int64_t cost, const F& f) {
  constexpr int64_t kGrain = 32768;  // elements a thread should get at least
  at::parallel_for(0, n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), f);
}

// Calls f with a zero of the tensor's element type (float or double).
template <class F>
void dispatch_real(const at::Tensor& t, const F& f) {
  if (t.scalar_type() == at::kFloat)
    f(float{});
  else
    f(double{});
}

template <class T>
T* ptr(const at::Tensor& t) {
  return t.defined() ? t.mutable_data_ptr<T>() : nullptr;
}

}  // namespace convoy::parallel
