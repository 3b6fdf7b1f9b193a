// Writes the payloads of valid records as first inputs of fuzz_records into the folder given.
#include "ckpt/manifest/frame.h"
#include "tests/ckpt/random_records.h"

#include <filesystem>
#include <fstream>

int main(int argc, char** argv) {
  using namespace convoy::ckpt;
  if (argc != 2) return 64;
  std::filesystem::create_directories(argv[1]);
  std::mt19937 random(1);
  const auto spill = [&](char kind, int i, const std::vector<std::byte>& bytes) {
    std::ofstream out(std::string(argv[1]) + "/" + std::to_string(kind) + "-" + std::to_string(i),
                      std::ios::binary);
    out.put(kind);
    out.write(reinterpret_cast<const char*>(bytes.data()) + sizeof(FrameHeader),
              static_cast<std::streamsize>(bytes.size() - kFrameBytes));
  };
  for (int i = 0; i < 30; ++i) {
    spill(0, i, *encode(i == 0 ? golden_part() : random_part(random)));
    spill(1, i, *encode(i == 0 ? golden_commit() : random_commit(random)));
    spill(2, i, *encode(i == 0 ? golden_owner() : random_owner(random)));
  }
  return 0;
}
