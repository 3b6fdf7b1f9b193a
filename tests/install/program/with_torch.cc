// The whole library: a group of one over the backend, on a shared tensor.
#include <convoy/comm/allocator.h>
#include <convoy/comm/backend.h>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <iostream>

int main() {
  using convoy::comm::Backend;
  const auto backend = c10::make_intrusive<Backend>(c10::make_intrusive<c10d::HashStore>(), 0, 1,
                                                    c10::make_intrusive<Backend::Options>());
  std::vector<at::Tensor> tensors = {convoy::comm::empty_shared({1000}, at::kFloat).fill_(2)};
  backend->allreduce(tensors, {})->wait();
  std::cout << backend->getBackendName() << " " << tensors[0].sum().item<float>() << "\n";
  return tensors[0].sum().item<float>() == 2000.0F ? 0 : 1;
}
