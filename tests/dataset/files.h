#pragma once

#include <fstream>
#include <iterator>
#include <string>

namespace convoy::dataset {

// A whole file, as bytes.
inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace convoy::dataset
