// Writes valid files of PyTorch's formats as first inputs of fuzz_torch into the folder given.
#include "tests/ckpt/torch_samples.h"

#include <filesystem>

int main(int argc, char** argv) {
  using namespace convoy::ckpt;
  if (argc != 2) return 64;
  std::filesystem::create_directories(argv[1]);
  const TorchSamples samples = make_torch_samples();
  const auto spill = [&](char kind, const std::vector<std::byte>& bytes) {
    std::ofstream out(std::string(argv[1]) + "/" + std::to_string(kind), std::ios::binary);
    out.put(kind);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  };
  spill(0, samples.pickle);
  spill(1, samples.metadata);
  spill(2, samples.zip);
  return 0;
}
