// c10d's collectives as operations of the host engine: checks what one rank can check, and lays the
// tensors out as spans. What only all ranks together can check (sizes, roots, order) the engine
// does.
#include "src/comm/c10d/backend_state.h"
#include "src/comm/c10d/errors.h"
#include <convoy/comm/backend.h>

#include <numeric>
#include <string>
#include <utility>

namespace convoy::comm {
namespace {

using c10d::OpType;
using host::OpKind;
using host::Span;

const at::Tensor& only(const std::vector<at::Tensor>& tensors, const Operation& operation) {
  TORCH_CHECK_VALUE(tensors.size() == 1, "convoy: ", operation.name(),
                    ": needs exactly one tensor on each rank, got ", tensors.size());
  return tensors.front();
}

// The list with one tensor for each rank, as the one entry of c10d's list of lists.
const std::vector<at::Tensor>& per_rank(const std::vector<std::vector<at::Tensor>>& lists, int size,
                                        const Operation& operation) {
  TORCH_CHECK_VALUE(lists.size() == 1 && static_cast<int>(lists[0].size()) == size,
                    "convoy: ", operation.name(),
                    ": needs one list with one tensor for each of the ", size, " ranks, got ",
                    lists.empty() ? 0 : lists[0].size());
  return lists.front();
}

void check_times(const at::Tensor& whole, const at::Tensor& share, int size,
                 const Operation& operation) {
  TORCH_CHECK_VALUE(whole.numel() == share.numel() * size, "convoy: ", operation.name(),
                    ": the tensor for all ranks has ", whole.numel(), " elements, which is not ",
                    size, " ranks x ", share.numel());
}

void check_pairs(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                 const Operation& operation) {
  TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "convoy: ", operation.name(), ": ",
                    outputs.size(), " outputs for ", inputs.size(), " inputs");
}

void add_all_reduce(Operation& operation, const at::Tensor& tensor, const c10d::ReduceOp& reduce) {
  auto& collective = operation.add_reduction(OpKind::kAllReduce, tensor.scalar_type(), reduce);
  const Span span = operation.in_place(tensor);
  collective.in = {span};
  collective.out = {span};
}

// `whole` cut into equal parts, one for each rank.
std::vector<Span> equal_parts(const Operation& operation, Span whole, int64_t count, int size) {
  std::vector<Span> parts;
  parts.reserve(size);
  for (int r = 0; r < size; ++r) parts.push_back(operation.part(whole, r * count, count));
  return parts;
}

// `whole` cut along dim 0 as all_to_all_single's split sizes say.
std::vector<Span> split_parts(const Operation& operation, const at::Tensor& tensor, Span whole,
                              const std::vector<int64_t>& splits, int size) {
  TORCH_CHECK_VALUE(tensor.dim() > 0, "convoy: ", operation.name(),
                    ": needs at least one dimension");
  const int64_t rows = tensor.size(0);
  if (splits.empty()) {
    TORCH_CHECK_VALUE(rows % size == 0, "convoy: ", operation.name(), ": ", rows,
                      " rows don't divide among ", size, " ranks; pass split sizes");
    return equal_parts(operation, whole, tensor.numel() / size, size);
  }
  const int64_t sum = std::accumulate(splits.begin(), splits.end(), int64_t{0});
  TORCH_CHECK_VALUE(static_cast<int>(splits.size()) == size && sum == rows,
                    "convoy: ", operation.name(), ": ", splits.size(),
                    " split sizes that add up to ", sum, " for ", size, " ranks and ", rows,
                    " rows");
  const int64_t row = rows > 0 ? tensor.numel() / rows : 0;
  std::vector<Span> parts;
  int64_t begin = 0;
  for (const int64_t count : splits) {
    TORCH_CHECK_VALUE(count >= 0, "convoy: ", operation.name(), ": negative split size ", count);
    parts.push_back(operation.part(whole, begin * row, count * row));
    begin += count;
  }
  return parts;
}

}  // namespace

void Backend::check_root(int64_t root, const std::string& name) const {
  TORCH_CHECK_VALUE(root >= 0 && root < getSize(), "convoy: ", name, ": root ", root,
                    " is not in a group of ", getSize());
}

c10::intrusive_ptr<c10d::Work> Backend::perform(Operation operation,
                                                std::chrono::milliseconds timeout, bool async) {
  std::unique_lock lock(state_->mutex);
  if (state_->batch && state_->batch->owner == std::this_thread::get_id()) {
    auto& collectives = state_->batch->collectives;
    if (!collectives) collectives.emplace(OpType::COALESCED, "convoy:coalesced");
    collectives->append(std::move(operation));
    return nullptr;
  }
  GroupContext context{state_->group, state_->name, state_->lane, state_->hooks};
  lock.unlock();
  if (!context.group) group();  // throws why
  auto step = std::make_shared<CollectiveStep>(std::move(context), std::move(operation),
                                               timeout_or_default(timeout));
  auto work = c10::make_intrusive<CollectiveWork>(getRank(), step, ++state_->sequence);
  if (async) {
    state_->lane->start(std::move(step));
  } else {
    state_->lane->run(step);
    throw_if_failed(step->status());
  }
  return work;
}

c10::intrusive_ptr<c10d::Work> Backend::broadcast(std::vector<at::Tensor>& tensors,
                                                  const c10d::BroadcastOptions& opts) {
  Operation operation(OpType::BROADCAST, "convoy:broadcast");
  const at::Tensor& tensor = only(tensors, operation);
  check_root(opts.rootRank, operation.name());
  auto& collective = operation.add(OpKind::kBroadcast, tensor.scalar_type());
  collective.root = static_cast<int>(opts.rootRank);
  const bool root = opts.rootRank == getRank();
  collective.out = {root ? operation.source(tensor) : operation.target(tensor)};
  operation.set_results(tensors);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allreduce(std::vector<at::Tensor>& tensors,
                                                  const c10d::AllreduceOptions& opts) {
  Operation operation(OpType::ALLREDUCE, "convoy:all_reduce");
  add_all_reduce(operation, only(tensors, operation), opts.reduceOp);
  operation.set_results(tensors);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allreduce_coalesced(
    std::vector<at::Tensor>& tensors, const c10d::AllreduceCoalescedOptions& opts) {
  Operation operation(OpType::ALLREDUCE_COALESCED, "convoy:all_reduce_coalesced");
  for (const at::Tensor& tensor : tensors) add_all_reduce(operation, tensor, opts.reduceOp);
  operation.set_results(tensors);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allreduce_sparse(std::vector<at::Tensor>&,
                                                         const c10d::AllreduceOptions&) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "convoy: all_reduce of sparse tensors is not supported; call "
                              "to_dense() first, or make the layer's gradients dense");
}

c10::intrusive_ptr<c10d::Work> Backend::reduce(std::vector<at::Tensor>& tensors,
                                               const c10d::ReduceOptions& opts) {
  Operation operation(OpType::REDUCE, "convoy:reduce");
  const at::Tensor& tensor = only(tensors, operation);
  check_root(opts.rootRank, operation.name());
  auto& collective = operation.add_reduction(OpKind::kReduce, tensor.scalar_type(), opts.reduceOp);
  collective.root = static_cast<int>(opts.rootRank);
  if (opts.rootRank == getRank()) {
    const Span span = operation.in_place(tensor);
    collective.in = {span};
    collective.out = {span};
  } else {
    collective.in = {operation.source(tensor)};
  }
  operation.set_results(tensors);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                                  std::vector<at::Tensor>& inputs,
                                                  const c10d::AllgatherOptions& opts) {
  Operation operation(OpType::ALLGATHER, "convoy:all_gather");
  const at::Tensor& input = only(inputs, operation);
  const auto& parts = per_rank(outputs, getSize(), operation);
  auto& collective = operation.add(OpKind::kAllGather, input.scalar_type());
  collective.in = {operation.source(input)};
  for (const at::Tensor& part : parts) collective.out.push_back(operation.target(part));
  operation.set_results(parts);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::allgather_coalesced(
    std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
    const c10d::AllgatherOptions& opts) {
  // Here c10d's outer list is over ranks, the inner over the tensors.
  Operation operation(OpType::ALLGATHER_COALESCED, "convoy:all_gather_coalesced");
  TORCH_CHECK_VALUE(static_cast<int>(outputs.size()) == getSize(), "convoy: ", operation.name(),
                    ": needs a list of outputs for each of the ", getSize(), " ranks");
  std::vector<at::Tensor> results;
  for (const auto& list : outputs) {
    TORCH_CHECK_VALUE(list.size() == inputs.size(), "convoy: ", operation.name(),
                      ": every rank's list must have one output for each of the ", inputs.size(),
                      " inputs");
    results.insert(results.end(), list.begin(), list.end());
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto& collective = operation.add(OpKind::kAllGather, inputs[i].scalar_type());
    collective.in = {operation.source(inputs[i])};
    for (const auto& list : outputs) collective.out.push_back(operation.target(list[i]));
  }
  operation.set_results(std::move(results));
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::all_gather_single(at::Tensor& output, at::Tensor& input,
                                                          const c10d::AllgatherOptions& opts) {
  std::vector<at::Tensor> outputs = {output};
  std::vector<at::Tensor> inputs = {input};
  return all_gather_single_coalesced(outputs, inputs, opts);
}

c10::intrusive_ptr<c10d::Work> Backend::all_gather_single_coalesced(
    std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
    const c10d::AllgatherOptions& opts) {
  Operation operation(OpType::_ALLGATHER_BASE, "convoy:all_gather_single");
  check_pairs(outputs, inputs, operation);
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_times(outputs[i], inputs[i], getSize(), operation);
    auto& collective = operation.add(OpKind::kAllGather, inputs[i].scalar_type());
    collective.in = {operation.source(inputs[i])};
    collective.out =
        equal_parts(operation, operation.target(outputs[i]), inputs[i].numel(), getSize());
  }
  operation.set_results(outputs);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::gather(std::vector<std::vector<at::Tensor>>& outputs,
                                               std::vector<at::Tensor>& inputs,
                                               const c10d::GatherOptions& opts) {
  Operation operation(OpType::GATHER, "convoy:gather");
  const at::Tensor& input = only(inputs, operation);
  check_root(opts.rootRank, operation.name());
  auto& collective = operation.add(OpKind::kGather, input.scalar_type());
  collective.root = static_cast<int>(opts.rootRank);
  collective.in = {operation.source(input)};
  if (opts.rootRank == getRank()) {
    const auto& parts = per_rank(outputs, getSize(), operation);
    for (const at::Tensor& part : parts) collective.out.push_back(operation.target(part));
    operation.set_results(parts);
  } else {
    TORCH_CHECK_VALUE(outputs.empty(), "convoy: gather: only the root gives outputs");
  }
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::gather_single(at::Tensor& output, at::Tensor& input,
                                                      const c10d::GatherOptions& opts) {
  Operation operation(OpType::GATHER, "convoy:gather_single");
  check_root(opts.rootRank, operation.name());
  auto& collective = operation.add(OpKind::kGather, input.scalar_type());
  collective.root = static_cast<int>(opts.rootRank);
  collective.in = {operation.source(input)};
  if (opts.rootRank == getRank()) {
    check_times(output, input, getSize(), operation);
    collective.out = equal_parts(operation, operation.target(output), input.numel(), getSize());
    operation.set_results({output});
  }
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::scatter(std::vector<at::Tensor>& outputs,
                                                std::vector<std::vector<at::Tensor>>& inputs,
                                                const c10d::ScatterOptions& opts) {
  Operation operation(OpType::SCATTER, "convoy:scatter");
  const at::Tensor& output = only(outputs, operation);
  check_root(opts.rootRank, operation.name());
  auto& collective = operation.add(OpKind::kScatter, output.scalar_type());
  collective.root = static_cast<int>(opts.rootRank);
  collective.out = {operation.target(output)};
  if (opts.rootRank == getRank()) {
    for (const at::Tensor& part : per_rank(inputs, getSize(), operation)) {
      collective.in.push_back(operation.source(part));
    }
  } else {
    TORCH_CHECK_VALUE(inputs.empty(), "convoy: scatter: only the root gives inputs");
  }
  operation.set_results(outputs);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::reduce_scatter(std::vector<at::Tensor>& outputs,
                                                       std::vector<std::vector<at::Tensor>>& inputs,
                                                       const c10d::ReduceScatterOptions& opts) {
  Operation operation(OpType::REDUCE_SCATTER, "convoy:reduce_scatter");
  const at::Tensor& output = only(outputs, operation);
  auto& collective =
      operation.add_reduction(OpKind::kReduceScatter, output.scalar_type(), opts.reduceOp);
  for (const at::Tensor& part : per_rank(inputs, getSize(), operation)) {
    collective.in.push_back(operation.source(part));
  }
  collective.out = {operation.target(output)};
  operation.set_results(outputs);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::reduce_scatter_single(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& opts) {
  std::vector<at::Tensor> outputs = {output};
  std::vector<at::Tensor> inputs = {input};
  return reduce_scatter_single_coalesced(outputs, inputs, opts);
}

c10::intrusive_ptr<c10d::Work> Backend::reduce_scatter_single_coalesced(
    std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
    const c10d::ReduceScatterOptions& opts) {
  Operation operation(OpType::_REDUCE_SCATTER_BASE, "convoy:reduce_scatter_single");
  check_pairs(outputs, inputs, operation);
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_times(inputs[i], outputs[i], getSize(), operation);
    auto& collective =
        operation.add_reduction(OpKind::kReduceScatter, outputs[i].scalar_type(), opts.reduceOp);
    collective.in =
        equal_parts(operation, operation.source(inputs[i]), outputs[i].numel(), getSize());
    collective.out = {operation.target(outputs[i])};
  }
  operation.set_results(outputs);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::alltoall(std::vector<at::Tensor>& outputs,
                                                 std::vector<at::Tensor>& inputs,
                                                 const c10d::AllToAllOptions& opts) {
  Operation operation(OpType::ALLTOALL, "convoy:all_to_all");
  const auto size = static_cast<size_t>(getSize());
  TORCH_CHECK_VALUE(outputs.size() == size && inputs.size() == size, "convoy: ", operation.name(),
                    ": needs one input and one output for each of the ", size, " ranks, got ",
                    inputs.size(), " and ", outputs.size());
  auto& collective = operation.add(OpKind::kAllToAll, inputs.front().scalar_type());
  for (const at::Tensor& part : inputs) collective.in.push_back(operation.source(part));
  for (const at::Tensor& part : outputs) collective.out.push_back(operation.target(part));
  operation.set_results(outputs);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::all_to_all_single(at::Tensor& output, at::Tensor& input,
                                                          std::vector<int64_t>& output_splits,
                                                          std::vector<int64_t>& input_splits,
                                                          const c10d::AllToAllOptions& opts) {
  Operation operation(OpType::ALLTOALL_BASE, "convoy:all_to_all_single");
  auto& collective = operation.add(OpKind::kAllToAll, input.scalar_type());
  collective.in = split_parts(operation, input, operation.source(input), input_splits, getSize());
  collective.out =
      split_parts(operation, output, operation.target(output), output_splits, getSize());
  operation.set_results({output});
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

c10::intrusive_ptr<c10d::Work> Backend::barrier(const c10d::BarrierOptions& opts) {
  Operation operation(OpType::BARRIER, "convoy:barrier");
  operation.add(OpKind::kBarrier, at::kByte);
  return perform(std::move(operation), opts.timeout, opts.asyncOp);
}

void Backend::monitoredBarrier(const c10d::BarrierOptions& opts, bool) {
  Operation operation(OpType::BARRIER, "convoy:monitored_barrier");
  operation.add(OpKind::kBarrier, at::kByte);
  perform(std::move(operation), opts.timeout, false);
}

}  // namespace convoy::comm
