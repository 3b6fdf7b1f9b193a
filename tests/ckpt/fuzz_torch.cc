// libFuzzer target: no bytes, however made, may crash the readers of PyTorch's pickles, zip files
// and .metadata, or make them accept what lies outside of its storage, tensor or folder. The first
// byte chooses the reader. First inputs: fuzz_torch_seeds.
#include "tests/ckpt/torch_readers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const std::span rest(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) convoy::ckpt::read_pickle(rest);
  if (data[0] % 3 == 1) convoy::ckpt::read_metadata(rest);
  if (data[0] % 3 == 2) convoy::ckpt::read_zip(rest);
  return 0;
}
