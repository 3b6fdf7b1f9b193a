// Group: c10d's calls with the options that Convoy's layers need (blocking calls run inline, no
// thread is woken), and the group of one, which never touches c10d.
#include <convoy/comm/group.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

namespace convoy::comm {
namespace {

std::vector<int64_t> with_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  TORCH_CHECK(!shape.empty(),
              "a group gathers and scatters along dimension 0: the tensor has none");
  shape[0] = rows;
  return shape;
}

bool even(const std::vector<int64_t>& sizes) {
  return std::all_of(sizes.begin(), sizes.end(), [&](int64_t s) { return s == sizes[0]; });
}

// Views of consecutive rows.
std::vector<at::Tensor> split_rows(const at::Tensor& full, const std::vector<int64_t>& sizes) {
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t rows : sizes) {
    parts.push_back(full.narrow(0, begin, rows));
    begin += rows;
  }
  TORCH_CHECK(begin == full.size(0), "the sizes of the shards add up to ", begin,
              " rows, the tensor has ", full.size(0));
  return parts;
}

// Memory for this rank's rows of `full`.
at::Tensor own_rows(const Group& group, const at::Tensor& full, const std::vector<int64_t>& sizes) {
  const int ranks = group.size();
  TORCH_CHECK(sizes.empty() ? full.size(0) % ranks == 0 : static_cast<int>(sizes.size()) == ranks,
              "reduce_scatter in ", group.name(), ": ", full.size(0), " rows don't split over ",
              ranks, " ranks; pass the rows of each rank");
  const int64_t rows = sizes.empty() ? full.size(0) / ranks : sizes[group.rank()];
  return at::empty(with_rows(full, rows), full.options());
}

// Gloo's allgather wants shards of one size; Convoy's and NCCL's take any.
bool wants_equal_shards(c10d::ProcessGroup& group, const at::Tensor& tensor) {
  return group.getBackend(tensor.device().type())->getBackendName() == "gloo";
}

// Gathers shards at the largest one's size and copies their rows to `parts`. Blocks, unlike what it
// stands in for: nobody starts an uneven all_gather without waiting for it.
void all_gather_padded(const Group& group, const std::vector<at::Tensor>& parts,
                       const at::Tensor& shard) {
  int64_t rows = 0;
  for (const at::Tensor& part : parts) rows = std::max(rows, part.size(0));
  const at::Tensor padded = at::empty(with_rows(shard, rows), shard.options());
  padded.narrow(0, 0, shard.size(0)).copy_(shard);
  const at::Tensor all = at::empty(with_rows(shard, rows * group.size()), shard.options());
  group.all_gather_into(all, padded);
  for (size_t r = 0; r < parts.size(); ++r) {
    parts[r].copy_(all.narrow(0, static_cast<int64_t>(r) * rows, parts[r].size(0)));
  }
}

Pending finish(c10::intrusive_ptr<c10d::Work> work, std::vector<at::Tensor> tensors, bool async) {
  Pending pending(std::move(work), std::move(tensors));
  if (!async) pending.wait();
  return pending;
}

}  // namespace

void Pending::wait() {
  if (work_) work_->wait();
  work_.reset();
  tensors_.clear();
}

Group::Group(c10::intrusive_ptr<c10d::ProcessGroup> process_group)
    : members_(std::make_shared<Members>()) {
  replace(std::move(process_group));
}

const c10::intrusive_ptr<c10d::ProcessGroup>& Group::process_group() const {
  static const c10::intrusive_ptr<c10d::ProcessGroup> none;
  return members_ ? members_->process_group : none;
}

void Group::replace(c10::intrusive_ptr<c10d::ProcessGroup> process_group) const {
  TORCH_CHECK_VALUE(members_, "a group that is alone for ever can't be replaced");
  members_->rank = process_group ? process_group->getRank() : 0;
  members_->size = process_group ? process_group->getSize() : 1;
  members_->process_group = std::move(process_group);
}

at::Device Group::device() const {
  if (!process_group()) return at::kCPU;
  const std::vector<c10::Device> devices = process_group()->getDeviceTypes();
  const bool on_gpus = std::none_of(devices.begin(), devices.end(),
                                    [](const c10::Device& device) { return device.is_cpu(); });
  return on_gpus ? at::kCUDA : at::kCPU;
}

std::string Group::name() const {
  return process_group() ? process_group()->getGroupName() : "alone";
}

Pending Group::all_reduce_impl(const at::Tensor& tensor, c10d::ReduceOp::RedOpType op,
                               bool async) const {
  if (alone()) return {};
  c10d::AllreduceOptions options;
  options.reduceOp = op;
  options.asyncOp = async;
  std::vector<at::Tensor> tensors = {tensor};
  auto work = process_group()->allreduce(tensors, options);
  return finish(std::move(work), std::move(tensors), async);
}

Pending Group::all_gather_impl(const at::Tensor& full, const at::Tensor& shard,
                               const std::vector<int64_t>& sizes, bool async) const {
  if (alone()) {
    if (!full.is_same(shard)) full.copy_(shard);
    return {};
  }
  c10d::AllgatherOptions options;
  options.asyncOp = async;
  at::Tensor out = full;
  at::Tensor in = shard;
  if (sizes.empty() || even(sizes)) {
    return finish(process_group()->all_gather_single(out, in, options), {out, in}, async);
  }
  std::vector<std::vector<at::Tensor>> parts = {split_rows(full, sizes)};
  if (wants_equal_shards(*process_group(), full)) {
    all_gather_padded(*this, parts[0], in);
    return {};
  }
  std::vector<at::Tensor> inputs = {shard};
  return finish(process_group()->allgather(parts, inputs, options), {out, in}, async);
}

Pending Group::reduce_scatter_impl(const at::Tensor& shard, const at::Tensor& full,
                                   const std::vector<int64_t>& sizes, bool async) const {
  if (alone()) {
    if (!full.is_same(shard)) shard.copy_(full);
    return {};
  }
  c10d::ReduceScatterOptions options;
  options.asyncOp = async;
  at::Tensor out = shard;
  at::Tensor in = full;
  if (sizes.empty() || even(sizes)) {
    return finish(process_group()->reduce_scatter_single(out, in, options), {out, in}, async);
  }
  std::vector<std::vector<at::Tensor>> parts = {split_rows(full, sizes)};
  std::vector<at::Tensor> outputs = {shard};
  return finish(process_group()->reduce_scatter(outputs, parts, options), {out, in}, async);
}

void Group::all_reduce_(const at::Tensor& tensor, c10d::ReduceOp::RedOpType op) const {
  all_reduce_impl(tensor, op, false);
}

void Group::broadcast_(const at::Tensor& tensor, int root) const {
  if (alone()) return;
  c10d::BroadcastOptions options;
  options.rootRank = root;
  options.asyncOp = false;
  std::vector<at::Tensor> tensors = {tensor};
  process_group()->broadcast(tensors, options)->wait();
}

void Group::barrier() const {
  if (alone()) return;
  c10d::BarrierOptions options;
  options.asyncOp = false;
  options.device = process_group()->getBoundDeviceId();
  // NCCL's barrier waits for the calling thread's current device, whichever the group's is.
  const c10::OptionalDeviceGuard guard(options.device);
  process_group()->barrier(options)->wait();
}

at::Tensor Group::all_gather(const at::Tensor& shard, const std::vector<int64_t>& sizes) const {
  if (alone()) return shard;
  const at::Tensor in = shard.contiguous();
  int64_t rows = in.size(0) * size();
  if (!sizes.empty()) {
    TORCH_CHECK(static_cast<int>(sizes.size()) == size() && sizes[rank()] == in.size(0),
                "all_gather in ", name(), ": rank ", rank(), " gives ", in.size(0),
                " rows, which its size list doesn't say");
    rows = 0;
    for (const int64_t s : sizes) rows += s;
  }
  const at::Tensor full = at::empty(with_rows(in, rows), in.options());
  all_gather_impl(full, in, sizes, false);
  return full;
}

at::Tensor Group::reduce_scatter(const at::Tensor& full, const std::vector<int64_t>& sizes) const {
  if (alone()) return full;
  const at::Tensor in = full.contiguous();
  const at::Tensor shard = own_rows(*this, in, sizes);
  reduce_scatter_impl(shard, in, sizes, false);
  return shard;
}

void Group::all_gather_into(const at::Tensor& full, const at::Tensor& shard) const {
  all_gather_impl(full, shard, {}, false);
}

void Group::reduce_scatter_into(const at::Tensor& shard, const at::Tensor& full) const {
  reduce_scatter_impl(shard, full, {}, false);
}

Pending Group::start_all_reduce_(const at::Tensor& tensor, c10d::ReduceOp::RedOpType op) const {
  return all_reduce_impl(tensor, op, true);
}

Pending Group::start_all_gather_into(const at::Tensor& full, const at::Tensor& shard) const {
  return all_gather_impl(full, shard, {}, true);
}

Pending Group::start_reduce_scatter_into(const at::Tensor& shard, const at::Tensor& full) const {
  return reduce_scatter_impl(shard, full, {}, true);
}

Pending Group::start_reduce_scatter(const at::Tensor& full, const std::vector<int64_t>& sizes,
                                    at::Tensor* shard) const {
  if (alone()) {
    *shard = full;
    return {};
  }
  *shard = own_rows(*this, full, sizes);
  return reduce_scatter_impl(*shard, full, sizes, true);
}

Pending Group::start_send(const at::Tensor& tensor, int to, int tag) const {
  TORCH_CHECK(!alone(), "send in a group of one: there is no other rank");
  std::vector<at::Tensor> tensors = {tensor};
  auto work = process_group()->send(tensors, to, tag);
  return {std::move(work), std::move(tensors)};
}

Pending Group::start_recv(const at::Tensor& tensor, int from, int tag) const {
  TORCH_CHECK(!alone(), "recv in a group of one: there is no other rank");
  std::vector<at::Tensor> tensors = {tensor};
  auto work = process_group()->recv(tensors, from, tag);
  return {std::move(work), std::move(tensors)};
}

std::vector<Pending> Group::start_exchange(std::span<const Message> messages) const {
  const bool as_one = device() == at::kCUDA && messages.size() > 1;
  std::vector<Pending> pending;
  if (as_one) process_group()->startCoalescing(at::kCUDA);
  for (const Message& m : messages) {
    pending.push_back(m.is_send ? start_send(m.tensor, m.peer) : start_recv(m.tensor, m.peer));
  }
  if (!as_one) return pending;
  const auto work = process_group()->endCoalescing(at::kCUDA);
  for (size_t i = 0; i < pending.size(); ++i) pending[i] = {work, {messages[i].tensor}};
  return pending;
}

void Group::all_reduce_numbers(std::span<double> numbers) const {
  if (alone()) return;
  const at::Tensor host =
      at::from_blob(numbers.data(), {static_cast<int64_t>(numbers.size())}, at::kDouble);
  const at::Tensor travelling = host.to(device(), host.scalar_type(), false, /*copy=*/true);
  all_reduce_(travelling);
  host.copy_(travelling);
}

void Group::broadcast_numbers(std::span<int64_t> numbers, int root) const {
  if (alone()) return;
  const at::Tensor host =
      at::from_blob(numbers.data(), {static_cast<int64_t>(numbers.size())}, at::kLong);
  const at::Tensor travelling = host.to(device(), host.scalar_type(), false, /*copy=*/true);
  broadcast_(travelling, root);
  host.copy_(travelling);
}

}  // namespace convoy::comm
