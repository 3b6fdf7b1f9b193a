// Sizes first, as numbers, then the bytes. A failed collective throws; here it becomes a Status.
#include "python/group_exchange.h"

#include <convoy/comm/group.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

namespace convoy::python {
namespace {

at::Tensor bytes_tensor(int64_t size) {
  return at::empty({size}, at::kByte);
}

template <class F>
auto guarded(const char* what, F&& work) -> Result<decltype(work())> {
  try {
    return work();
  } catch (const std::exception& error) {
    return Status(Code::kUnavailable,
                  std::string(what) + " among the ranks failed: " + error.what());
  }
}

}  // namespace

GroupExchange::GroupExchange(c10::intrusive_ptr<c10d::ProcessGroup> group)
    : group_(std::move(group)), device_(comm::Group(group_).device()) {}

// Row r of the result is rank r's.
at::Tensor GroupExchange::gather(const at::Tensor& mine) {
  const at::Tensor input = mine.to(device_);
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int r = 0; r < size(); ++r) outputs[0].push_back(at::empty_like(input));
  std::vector<at::Tensor> inputs = {input};
  group_->allgather(outputs, inputs)->wait();
  return at::stack(outputs[0]).cpu();
}

at::Tensor GroupExchange::exchange(const at::Tensor& to, std::vector<int64_t> to_sizes,
                                   std::vector<int64_t> from_sizes) {
  at::Tensor input = to.to(device_);
  at::Tensor output = at::empty({std::accumulate(from_sizes.begin(), from_sizes.end(), int64_t{0})},
                                to.options().device(device_));
  group_->all_to_all_single(output, input, from_sizes, to_sizes)->wait();
  return output.cpu();
}

Result<std::vector<ckpt::Exchange::Bytes>> GroupExchange::all_gather(Bytes mine) {
  return guarded("an exchange", [&] {
    const at::Tensor sizes =
        gather(at::scalar_tensor(static_cast<int64_t>(mine.size()), at::kLong));
    const int64_t most = std::max<int64_t>(1, sizes.max().item<int64_t>());
    at::Tensor padded = bytes_tensor(most);
    if (!mine.empty()) std::memcpy(padded.data_ptr(), mine.data(), mine.size());
    const at::Tensor all = gather(padded);
    std::vector<Bytes> out;
    for (int r = 0; r < size(); ++r) {
      const auto* from = static_cast<const std::byte*>(all[r].data_ptr());
      out.emplace_back(from, from + sizes[r].item<int64_t>());
    }
    return out;
  });
}

Result<std::vector<ckpt::Exchange::Bytes>> GroupExchange::all_to_all(std::vector<Bytes> to) {
  return guarded("an exchange", [&] {
    const int64_t n = size();
    std::vector<int64_t> to_sizes;
    for (const Bytes& bytes : to) to_sizes.push_back(static_cast<int64_t>(bytes.size()));
    const std::vector<int64_t> ones(static_cast<size_t>(n), 1);
    const at::Tensor sizes = exchange(at::tensor(to_sizes, at::kLong), ones, ones);
    const std::vector<int64_t> from_sizes(sizes.data_ptr<int64_t>(), sizes.data_ptr<int64_t>() + n);
    at::Tensor packed = bytes_tensor(std::accumulate(to_sizes.begin(), to_sizes.end(), int64_t{0}));
    auto* at = static_cast<std::byte*>(packed.data_ptr());
    for (Bytes& bytes : to) {
      if (!bytes.empty()) std::memcpy(at, bytes.data(), bytes.size());
      at += bytes.size();
      Bytes().swap(bytes);
    }
    const at::Tensor got = exchange(packed, to_sizes, from_sizes);
    const auto* from = static_cast<const std::byte*>(got.data_ptr());
    std::vector<Bytes> out;
    for (const int64_t bytes : from_sizes) {
      out.emplace_back(from, from + bytes);
      from += bytes;
    }
    return out;
  });
}

}  // namespace convoy::python
