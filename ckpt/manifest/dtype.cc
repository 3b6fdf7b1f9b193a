// Element types: their sizes and names.
#include <convoy/ckpt/records.h>

#include <array>

namespace convoy::ckpt {
namespace {

struct Known {
  std::string_view name;
  uint32_t bytes;
};
// Index: the dtype's number.
constexpr std::array<Known, 19> kDtypes{{{"", 0},
                                         {"float32", 4},
                                         {"float64", 8},
                                         {"float16", 2},
                                         {"bfloat16", 2},
                                         {"int8", 1},
                                         {"int16", 2},
                                         {"int32", 4},
                                         {"int64", 8},
                                         {"uint8", 1},
                                         {"uint16", 2},
                                         {"uint32", 4},
                                         {"uint64", 8},
                                         {"bool", 1},
                                         {"complex64", 8},
                                         {"complex128", 16},
                                         {"float8_e4m3", 1},
                                         {"float8_e5m2", 1},
                                         {"bytes", 1}}};
static_assert(kDtypes.size() == static_cast<size_t>(Dtype::kBytes) + 1);

}  // namespace

uint32_t dtype_bytes(Dtype dtype) {
  const auto i = static_cast<size_t>(dtype);
  return i < kDtypes.size() ? kDtypes[i].bytes : 0;
}

std::string dtype_name(Dtype dtype) {
  const auto i = static_cast<size_t>(dtype);
  if (dtype_bytes(dtype) == 0) return "dtype " + std::to_string(i);
  return std::string(kDtypes[i].name);
}

Result<Dtype> parse_dtype(std::string_view name) {
  std::string names;
  for (size_t i = 1; i < kDtypes.size(); ++i) {
    if (kDtypes[i].name == name) return static_cast<Dtype>(i);
    names += (i == 1 ? "" : ", ") + std::string(kDtypes[i].name);
  }
  return Status(Code::kInvalidArgument,
                "'" + std::string(name) + "' is no dtype: use one of " + names + ".");
}

}  // namespace convoy::ckpt
