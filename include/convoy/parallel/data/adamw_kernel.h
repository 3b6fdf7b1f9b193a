#pragma once

#include <cstddef>
#include <cstdint>

// AdamW (Loshchilov and Hutter, 2019) as one pass over flat memory, free of torch.
//
// Every element reads parameter, gradient and both moments once and writes three of them once, so a
// step costs 28 bytes of memory traffic per float32 element, whatever the number of parameters. No
// fused multiply-add is used: the result is the same bits on every x86-64 machine, with any vector
// width, and for any split of the range.
namespace convoy::data {

// What one step is the same for all elements. `bias1` and `bias2` are 1 - beta^t of step t >= 1.
struct AdamWStep {
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;  // 0 for ranges that don't decay
  double bias1 = 1;
  double bias2 = 1;
  double grad_scale = 1;  // multiplies every gradient: clipping without a pass of its own
};

// Updates `count` elements in place. The ranges must not overlap.
void adamw_update(float* param, const float* grad, float* m, float* v, size_t count,
                  const AdamWStep& step);
void adamw_update(double* param, const double* grad, double* m, double* v, size_t count,
                  const AdamWStep& step);
// bfloat16 parameters (as bits) that follow float32 master weights, rounded to nearest even.
void adamw_update_bf16(uint16_t* param, float* master, const float* grad, float* m, float* v,
                       size_t count, const AdamWStep& step);

// The sum of squares, added in float64 in an order that depends on `count` only.
double sum_of_squares(const float* data, size_t count);
double sum_of_squares(const double* data, size_t count);

}  // namespace convoy::data
