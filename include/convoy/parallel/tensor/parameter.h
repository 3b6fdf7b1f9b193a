#pragma once

#include <convoy/comm/group.h>
#include <convoy/mesh/shard_spec.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace convoy::parallel {

// The sizes of even_chunk() for all parts.
std::vector<int64_t> even_sizes(int64_t total, int parts);

// A run of the full parameter's sharded dimension that this rank holds.
struct HeldRun {
  int64_t global = 0;  // first element in the full parameter
  int64_t local = 0;   // where it lies in this rank's shard
  int64_t size = 0;
  bool owned = true;  // false: a lower rank of the tensor group holds these elements too
};

// One model parameter as one rank holds it: the local shard, its gradient, and what the optimizer,
// the data-parallel engine and a checkpoint must know. Layers and engine share it by pointer.
//
// Gradients do not go through autograd's .grad: a layer's backward adds its product into `grad`
// directly (no temporary, no zeroing: the first product of a step overwrites), then calls
// `on_grad`. Not thread-safe; backward runs on one thread.
struct Parameter {
  std::string name;           // global: "layers.3.attn.qkv"
  ShardSpec spec;             // the full shape, and how the mesh dimension "tp" cuts it
  int64_t shard_dim = 0;      // the dimension that `runs` cut
  std::vector<HeldRun> runs;  // what of it this rank holds: ascending, covering the shard
  // Rows of the full parameter (dimension 0) whose gradient on each tensor rank is only that rank's
  // part and must be summed over the tensor group once per step: norms in sequence-parallel
  // regions, key/value heads that several ranks hold. The same on all ranks; length 0: none.
  Range partial_rows;
  bool weight_decay = true;
  // The token embedding's weight when the head uses it too. With pipeline stages both the first and
  // the last stage hold a copy (with this flag, the same name and the same initial values); the
  // gradients of the copies must be summed over {first, last} stage before the optimizer's step.
  bool shared_embedding = false;
  // How often a backward pass of one micro-batch adds to `grad` (2: tied embedding and head on this
  // rank). The gradient of a micro-batch is complete at that many calls of `on_grad`.
  int uses = 1;

  at::Tensor value;  // the shard; requires grad
  at::Tensor grad;  // the same shape; float32 for 16-bit values. The engine may replace it, e.g. by
                    // a view of a bucket, while grad_empty.
  bool grad_empty = true;                   // `grad` holds nothing yet: the next add overwrites
  std::function<void(Parameter&)> on_grad;  // called after each addition

  const std::vector<int64_t>& full_shape() const { return spec.shape; }
  // grad += g, in grad's dtype.
  void add_grad(const at::Tensor& g);
  // grad += a · b (matrices), without a temporary where dtypes agree.
  void add_grad_product(const at::Tensor& a, const at::Tensor& b);
  // grad[rows[i]] += values[i] for every i with rows[i] >= 0, in order. rows: int64 [n]; values:
  // [n, width].
  void add_grad_rows(const at::Tensor& rows, const at::Tensor& values);
  // `value` as a tensor of the autograd graph whose gradient is added here: for expressions written
  // with plain ATen calls.
  at::Tensor tracked() const;
  // The value without autograd.
  at::Tensor data() const { return value.detach(); }
  // A new step begins. Keeps the memory of `grad`.
  void clear_grad() { grad_empty = true; }

 private:
  friend std::shared_ptr<Parameter> make_parameter(Parameter description,
                                                   at::TensorOptions options);
  std::weak_ptr<Parameter> self_;
};
using ParameterPtr = std::shared_ptr<Parameter>;

// The description of a parameter of `shape` that the tensor group cuts by `placement` (replicate,
// or shard of one dimension): spec, shard_dim and runs for this rank.
Parameter describe(std::string name, std::vector<int64_t> shape, const Placement& placement,
                   const comm::Group& tensor_group);
// Makes value and grad, not yet initialised.
ParameterPtr make_parameter(Parameter description, at::TensorOptions options);

// Element e of the full parameter gets the e-th number of a normal distribution (0, std²), a pure
// function of (seed, name, e): any mesh starts from the same model.
void init_normal(Parameter& parameter, uint64_t seed, double std);
void init_constant(Parameter& parameter, double value);

// Cuts this rank's shard out of the full parameter.
void load_full(Parameter& parameter, const at::Tensor& full);
// The full parameter (or its gradient) on every rank of the tensor group, from `local` =
// parameter.value or .grad. A collective; for tests, exports and samples, not for the hot path.
at::Tensor gather_full(const Parameter& parameter, const at::Tensor& local,
                       const comm::Group& tensor_group);

// Sums the gradients of all `partial_rows` over the tensor group: one all-reduce for all
// parameters. A collective; call once per step after the last backward, before data-parallel
// averaging or the optimizer. All ranks of the group must pass the same parameters in one order.
void sum_partial_gradients(const std::vector<ParameterPtr>& parameters,
                           const comm::Group& tensor_group);

// Sum of squares of the gradient's owned elements (a float64 scalar): summed over the tensor group
// it counts every element of the full gradient once.
double owned_square_sum(const Parameter& parameter);

}  // namespace convoy::parallel
