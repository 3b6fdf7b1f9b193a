// Messages between two ranks, and the batches that startCoalescing() opens.
#include "src/comm/c10d/backend_state.h"
#include "src/comm/c10d/errors.h"
#include <convoy/comm/backend.h>

#include <utility>

namespace convoy::comm {
namespace {

size_t bytes_of(const at::Tensor& tensor) {
  return static_cast<size_t>(tensor.numel()) * tensor.element_size();
}

const char* call_name(int peer, bool receives) {
  if (!receives) return "send";
  return peer == host::kAnySource ? "recv_any_source" : "recv";
}

c10d::OpType call_type(int peer, bool receives) {
  if (!receives) return c10d::OpType::SEND;
  return peer == host::kAnySource ? c10d::OpType::RECVANYSOURCE : c10d::OpType::RECV;
}

}  // namespace

c10::intrusive_ptr<c10d::Work> Backend::message(std::vector<at::Tensor>& tensors, int peer, int tag,
                                                bool receives) {
  const std::string name = call_name(peer, receives);
  TORCH_CHECK_VALUE(tensors.size() == 1, "convoy: ", name, ": needs exactly one tensor, got ",
                    tensors.size());
  const at::Tensor& tensor = tensors.front();
  check_cpu(tensor, name);
  TORCH_CHECK_VALUE(peer == host::kAnySource || (peer >= 0 && peer < getSize()), "convoy: ", name,
                    ": rank ", peer, " is not in a group of ", getSize());
  TransferWork::Message m;
  m.tensor = tensor;
  m.receives = receives;
  if (!is_plain(tensor)) m.stand_in = shared_copy(tensor);
  const at::Tensor& memory = m.stand_in.defined() ? m.stand_in : tensor;
  void* data = const_cast<void*>(memory.const_data_ptr());
  const auto group = this->group();
  auto transfer = receives ? group->post_recv(data, bytes_of(tensor), peer, tag)
                           : group->post_send(data, bytes_of(tensor), peer, tag);
  throw_if_failed(transfer.status());
  m.transfer = std::move(*transfer);

  std::unique_lock lock(state_->mutex);
  if (state_->batch && state_->batch->owner == std::this_thread::get_id()) {
    state_->batch->messages.push_back(std::move(m));
    return nullptr;
  }
  const GroupContext context{group, state_->name, state_->lane, state_->hooks};
  lock.unlock();
  return c10::make_intrusive<TransferWork>(getRank(), call_type(peer, receives), context,
                                           std::vector<TransferWork::Message>{std::move(m)},
                                           state_->options->timeout);
}

c10::intrusive_ptr<c10d::Work> Backend::send(std::vector<at::Tensor>& tensors, int to, int tag) {
  TORCH_CHECK_VALUE(to >= 0, "convoy: send: rank ", to, " is not in a group of ", getSize());
  return message(tensors, to, tag, false);
}

c10::intrusive_ptr<c10d::Work> Backend::recv(std::vector<at::Tensor>& tensors, int from, int tag) {
  TORCH_CHECK_VALUE(from >= 0, "convoy: recv: rank ", from, " is not in a group of ", getSize());
  return message(tensors, from, tag, true);
}

c10::intrusive_ptr<c10d::Work> Backend::recvAnysource(std::vector<at::Tensor>& tensors, int tag) {
  return message(tensors, host::kAnySource, tag, true);
}

void Backend::startCoalescing() {
  const std::lock_guard lock(state_->mutex);
  state_->batch.emplace();
  state_->batch->owner = std::this_thread::get_id();
}

c10::intrusive_ptr<c10d::Work> Backend::endCoalescing() {
  std::unique_lock lock(state_->mutex);
  Batch batch = state_->batch ? std::move(*state_->batch) : Batch{};
  state_->batch.reset();
  const GroupContext context{state_->group, state_->name, state_->lane, state_->hooks};
  lock.unlock();
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  if (batch.collectives) {
    works.push_back(perform(std::move(*batch.collectives), c10d::kUnsetTimeout, true));
  }
  if (!batch.messages.empty()) {
    works.push_back(c10::make_intrusive<TransferWork>(getRank(), c10d::OpType::COALESCED, context,
                                                      std::move(batch.messages),
                                                      state_->options->timeout));
  }
  if (works.size() == 1) return works.front();
  return c10::make_intrusive<BatchWork>(getRank(), std::move(works));
}

}  // namespace convoy::comm
