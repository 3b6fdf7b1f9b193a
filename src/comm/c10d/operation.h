#pragma once

#include <convoy/comm/host/collective.h>

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <string>
#include <utility>
#include <vector>

namespace convoy::comm {

// What one Work performs: collectives of the host engine, and the tensors that their memory belongs
// to. A tensor that is not plain memory (not contiguous, conjugated, negated) is represented by a
// contiguous copy in shared memory, whose result finish() copies back.
class Operation {
 public:
  // `title` is the profiler's, "convoy:" and torch's name; it must live as long as the process.
  Operation(c10d::OpType type, const char* title);

  // Adds a collective on elements of `dtype`, which must be what span-making calls after it get.
  // Types that the engine does not know travel as bytes.
  host::Collective& add(host::OpKind kind, at::ScalarType dtype);
  // Adds one that reduces; refuses types that have no arithmetic in the engine.
  host::Collective& add_reduction(host::OpKind kind, at::ScalarType dtype,
                                  const c10d::ReduceOp& reduce);

  // Memory of a tensor of the collective that was added last: with its values, to receive values,
  // or both. Throws when it is not a dense CPU tensor of the collective's dtype.
  host::Span source(const at::Tensor& tensor);
  host::Span target(const at::Tensor& tensor);
  host::Span in_place(const at::Tensor& tensor);
  // The `count` elements from element `begin` of `whole`, a span of the same collective.
  host::Span part(host::Span whole, int64_t begin, int64_t count) const;

  // Names the tensors that hold the results once the operation is done.
  void set_results(std::vector<at::Tensor> results) { results_ = std::move(results); }

  // Takes over all of another operation, behind this one's.
  void append(Operation other);
  // Copies results back to tensors that are not plain memory, and lets go of all but the results.
  void finish();
  // Lets go of all but the results, without them having arrived.
  void discard();

  c10d::OpType type() const { return type_; }
  const char* title() const { return title_; }
  const std::string& name() const { return name_; }  // "all_reduce"
  const std::vector<host::Collective>& collectives() const { return collectives_; }
  const std::vector<at::Tensor>& results() const { return results_; }

 private:
  void check(const at::Tensor& tensor) const;
  host::Span span_of(const at::Tensor& contiguous) const;

  c10d::OpType type_;
  const char* title_;
  std::string name_;
  std::vector<host::Collective> collectives_;
  at::ScalarType dtype_ = at::kByte;  // of the collective that was added last
  size_t factor_ = 1;                 // engine elements for each of its elements
  std::vector<at::Tensor> kept_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copy_back_;  // (user's tensor, its stand-in)
  std::vector<at::Tensor> results_;
};

// Whether the tensor's values are just its memory, in order.
bool is_plain(const at::Tensor& tensor);
// Throws unless it is a dense CPU tensor.
void check_cpu(const at::Tensor& tensor, const std::string& name);
// A contiguous copy in shared memory; and values back into any tensor. Nobody differentiates them.
at::Tensor shared_copy(const at::Tensor& tensor);
void copy_values(const at::Tensor& to, const at::Tensor& from);

}  // namespace convoy::comm
