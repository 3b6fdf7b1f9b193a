// In the place of nccl.cc in a build without the CUDA toolkit or NCCL's headers.
#include <convoy/comm/nccl.h>

#include <c10/util/Exception.h>

namespace convoy::comm {

bool built_with_nccl() {
  return false;
}

c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>&, int, int,
                                                  const NcclOptions& options) {
  C10_THROW_ERROR(DistBackendError,
                  "failed precondition: group " + options.name +
                      " needs NCCL, but this build of Convoy is without it: install the CUDA "
                      "Toolkit 13 and NCCL's headers, and build with -DCONVOY_CUDA=ON");
}

}  // namespace convoy::comm
