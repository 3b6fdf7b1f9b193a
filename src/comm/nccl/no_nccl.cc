// In the place of nccl.cc in a build without the CUDA toolkit or NCCL's headers.
#include <convoy/comm/nccl.h>

#include <c10/util/Exception.h>

namespace convoy::comm {

bool built_with_nccl() {
  return false;
}

int load_cuda() {
  C10_THROW_ERROR(DistBackendError,
                  "failed precondition: this build of Convoy is without CUDA and NCCL: install the "
                  "CUDA Toolkit 13 and NCCL's headers, and build with -DCONVOY_CUDA=ON");
}

c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>&, int, int,
                                                  const NcclOptions&) {
  load_cuda();
  return {};
}

void abort_together(const std::function<void()>&) {
  load_cuda();
}

}  // namespace convoy::comm
