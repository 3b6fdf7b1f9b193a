// Sizes first, then bytes: receivers don't know what comes.
#include <convoy/ckpt/group_exchange.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

#include <cstring>
#include <functional>

namespace convoy::ckpt {
namespace {

using Bytes = Exchange::Bytes;

// A view of the bytes, on the device.
at::Tensor tensor_of(Bytes& bytes, at::Device device) {
  const auto size = static_cast<int64_t>(bytes.size());
  return at::from_blob(bytes.data(), {size}, at::kByte).to(device);
}

Bytes bytes_of(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu();
  Bytes out(static_cast<size_t>(host.numel()));
  if (!out.empty()) std::memcpy(out.data(), host.const_data_ptr(), out.size());
  return out;
}

Result<std::vector<Bytes>> guarded(const std::function<std::vector<Bytes>()>& body) {
  try {
    return body();
  } catch (const c10::DistError& error) {
    const Status status = status_of_text(error.what_without_backtrace());
    if (status.code() != Code::kInternal) return status;
    return Status(Code::kUnavailable, status.message());
  } catch (const c10::Error& error) {
    return status_of_text(error.what_without_backtrace());
  } catch (const std::exception& error) {  // Gloo's
    return Status(Code::kUnavailable, error.what());
  }
}

}  // namespace

std::vector<int64_t> GroupExchange::gather_sizes(const std::vector<Bytes>& to) const {
  std::vector<int64_t> mine;
  for (const Bytes& bytes : to) mine.push_back(static_cast<int64_t>(bytes.size()));
  const at::Tensor all = group_.all_gather(at::tensor(mine).to(group_.device())).cpu();
  const auto* sizes = all.const_data_ptr<int64_t>();
  return {sizes, sizes + all.numel()};
}

Result<std::vector<Bytes>> GroupExchange::all_gather(Bytes mine) {
  if (group_.alone()) return std::vector<Bytes>{std::move(mine)};
  return guarded([&] {
    const std::vector<int64_t> sizes = gather_sizes({mine});
    const at::Tensor all = group_.all_gather(tensor_of(mine, group_.device()), sizes).cpu();
    std::vector<Bytes> out;
    int64_t begin = 0;
    for (const int64_t size : sizes) {
      out.push_back(bytes_of(all.narrow(0, begin, size)));
      begin += size;
    }
    return out;
  });
}

Result<std::vector<Bytes>> GroupExchange::all_to_all(std::vector<Bytes> to) {
  if (group_.alone()) return std::vector<Bytes>(1);
  return guarded([&] {
    const std::vector<int64_t> sizes = gather_sizes(to);
    const at::Device device = group_.device();
    const auto ranks = static_cast<size_t>(group_.size());
    const auto me = static_cast<size_t>(group_.rank());
    std::vector<comm::Message> messages;
    std::vector<at::Tensor> received(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      const int peer = static_cast<int>(r);
      if (r == me) continue;
      if (!to[r].empty()) messages.push_back({true, tensor_of(to[r], device), peer});
      const int64_t size = sizes[r * ranks + me];
      if (size == 0) continue;
      received[r] = at::empty({size}, at::TensorOptions(at::kByte).device(device));
      messages.push_back({false, received[r], peer});
    }
    for (comm::Pending& pending : group_.start_exchange(messages)) pending.wait();
    std::vector<Bytes> out(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      if (received[r].defined()) out[r] = bytes_of(received[r]);
    }
    return out;
  });
}

}  // namespace convoy::ckpt
