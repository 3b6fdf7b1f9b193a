// The names and sizes of the host engine's enumerations.
#include <convoy/comm/host/collective.h>

#include <array>

namespace convoy::host {
namespace {

struct DTypeFacts {
  size_t size;
  std::string_view name;
};
constexpr std::array<DTypeFacts, 12> kDTypes = {{{1, "uint8"},
                                                 {1, "int8"},
                                                 {2, "int16"},
                                                 {4, "int32"},
                                                 {8, "int64"},
                                                 {2, "float16"},
                                                 {2, "bfloat16"},
                                                 {4, "float32"},
                                                 {8, "float64"},
                                                 {1, "bool"},
                                                 {8, "complex64"},
                                                 {16, "complex128"}}};
constexpr std::array<std::string_view, 9> kReductions = {
    "sum", "avg", "product", "min", "max", "band", "bor", "bxor", "premul_sum"};
constexpr std::array<std::string_view, 9> kKinds = {"barrier",    "broadcast",  "all_reduce",
                                                    "reduce",     "all_gather", "reduce_scatter",
                                                    "all_to_all", "gather",     "scatter"};

}  // namespace

size_t dtype_size(DType dtype) {
  return kDTypes.at(static_cast<size_t>(dtype)).size;
}

std::string_view dtype_name(DType dtype) {
  return kDTypes.at(static_cast<size_t>(dtype)).name;
}

std::string_view op_name(OpKind kind) {
  return kKinds.at(static_cast<size_t>(kind));
}

std::string_view reduce_name(ReduceOp op) {
  return kReductions.at(static_cast<size_t>(op));
}

}  // namespace convoy::host
