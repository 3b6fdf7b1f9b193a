#pragma once

#include <string_view>

// The files of trace/web/static, in the program (assets.cmake makes the code).
namespace convoy::trace {

struct Asset {
  std::string_view path;  // "/index.html"
  const char* type;
  std::string_view bytes;
};

// nullptr: there is none.
const Asset* find_asset(std::string_view path);

}  // namespace convoy::trace
