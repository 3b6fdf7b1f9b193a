// Preloaded, it stands before libtorch's own function: the version that a libtorch 2.14 would tell.
#include <cstdint>

extern "C" uint64_t aoti_torch_abi_version() {
  return uint64_t{2} << 56 | uint64_t{14} << 48;
}
