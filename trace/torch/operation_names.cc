// Names of calls: c10d has one for each of its functions, the tracer one for each kind of
// collective.
#include "trace/torch/operation_names.h"

#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <string>

namespace convoy::trace {
namespace {

constexpr size_t kOperations = static_cast<size_t>(c10d::HookOpName::UNKNOWN) + 1;
constexpr size_t kDtypes = static_cast<size_t>(c10::ScalarType::NumOptions) + 1;  // last: none
constexpr std::array<const char*, 10> kReductions = {"",    "sum",  "avg", "product", "min",
                                                     "max", "band", "bor", "bxor",    "premul_sum"};
constexpr size_t kKinds = kOperations * kDtypes * kReductions.size() * 2;

std::array<std::atomic<uint16_t>, kKinds> known;

std::string text_of(c10d::HookOpName operation) {
  using enum c10d::HookOpName;
  switch (operation) {
    case SEND:
      return "send";
    case RECV:
      return "recv";
    case BROADCAST:
      return "broadcast";
    case ALLREDUCE:
    case ALLREDUCE_COALESCED:
      return "all_reduce";
    case REDUCE:
      return "reduce";
    case ALLGATHER:
    case ALLGATHER_BASE:
    case ALLGATHER_COALESCED:
    case ALLGATHER_INTO_TENSOR_COALESCED:
      return "all_gather";
    case REDUCE_SCATTER:
    case REDUCE_SCATTER_BASE:
    case REDUCE_SCATTER_TENSOR_COALESCED:
      return "reduce_scatter";
    case ALLTOALL:
    case ALLTOALL_BASE:
      return "all_to_all";
    case BARRIER:
      return "barrier";
    case SCATTER:
      return "scatter";
    case GATHER:
      return "gather";
    case SPLIT:
      return "split";
    case NEW_WINDOW:
      return "new_window";
    default:
      return "unknown";
  }
}

std::string text_of(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::ScalarType::Byte:
      return "uint8";
    case c10::ScalarType::Char:
      return "int8";
    case c10::ScalarType::Short:
      return "int16";
    case c10::ScalarType::Int:
      return "int32";
    case c10::ScalarType::Long:
      return "int64";
    case c10::ScalarType::Half:
      return "float16";
    case c10::ScalarType::Float:
      return "float32";
    case c10::ScalarType::Double:
      return "float64";
    case c10::ScalarType::ComplexFloat:
      return "complex64";
    case c10::ScalarType::ComplexDouble:
      return "complex128";
    default: {
      std::string text = c10::toString(dtype);  // "BFloat16", "Float8_e4m3fn"
      std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
      return text;
    }
  }
}

}  // namespace

uint16_t operation_name(c10d::HookOpName operation, c10::ScalarType dtype, bool has_dtype,
                        const CallFacts& facts, bool uneven) {
  const size_t op = std::min(static_cast<size_t>(operation), kOperations - 1);
  const size_t type = has_dtype ? std::min(static_cast<size_t>(dtype), kDtypes - 1) : kDtypes - 1;
  const size_t reduction =
      facts.reduction >= 0 && facts.reduction + 1U < kReductions.size() ? facts.reduction + 1U : 0;
  std::atomic<uint16_t>& name =
      known[((op * kDtypes + type) * kReductions.size() + reduction) * 2 + (uneven ? 1 : 0)];
  const uint16_t id = name.load(std::memory_order_relaxed);
  if (id != 0) return id;
  const OperationKind kind{text_of(operation), has_dtype ? text_of(dtype) : "",
                           kReductions[reduction], uneven};
  const uint16_t made = intern(operation_text(kind));
  name.store(made, std::memory_order_relaxed);
  return made;
}

void forget_operation_names() {
  for (auto& name : known) name.store(0, std::memory_order_relaxed);
}

}  // namespace convoy::trace
