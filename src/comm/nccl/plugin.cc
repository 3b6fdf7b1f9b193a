// libconvoy_nccl: makes libtorch's NCCL groups. The only file of comm that sees CUDA.
#include "src/comm/nccl/plugin.h"

#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/nccl2/ProcessGroupNCCL.hpp>

#include <nccl.h>

namespace convoy::comm {

extern "C" void convoy_make_nccl_group(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                       int size, const NcclOptions& options,
                                       c10::intrusive_ptr<c10d::Backend>& group) {
  using c10d::nccl2::ProcessGroupNCCL;
  auto made = ProcessGroupNCCL::Options::create(options.high_priority_stream);
  made->timeout = options.timeout;
  made->group_name = options.name;
  made->global_ranks_in_group = options.global_ranks;
  group = c10::make_intrusive<ProcessGroupNCCL>(store, rank, size, std::move(made));
  // The communicator is made when the group is bound to its device.
  group->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(options.device)));
}

extern "C" int convoy_count_gpus() {
  return c10::cuda::device_count();
}

extern "C" int convoy_nccl_group(bool begins) {
  return begins ? ::ncclGroupStart() : ::ncclGroupEnd();
}

static_assert(std::is_same_v<MakeNcclGroup, decltype(convoy_make_nccl_group)>);

}  // namespace convoy::comm
