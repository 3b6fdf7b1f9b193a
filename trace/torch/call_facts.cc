// Kernels for the dispatch key between autograd and the backends, which hand the call on. No torch
// operation has one for c10d's calls, and tensors in inference mode don't pass by.
#include "trace/torch/call_facts.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/library.h>

#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace convoy::trace {
namespace {

using at::Tensor;
using at::TensorList;
using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using Reduce = c10::intrusive_ptr<c10d::ReduceOp>;
using Work = c10::intrusive_ptr<c10d::Work>;
using Lists = std::vector<std::vector<Tensor>>;
using Splits = std::vector<int64_t>;

thread_local constinit CallFacts facts;

class FactsScope {
 public:
  explicit FactsScope(CallFacts now) : before_(std::exchange(facts, now)) {}
  ~FactsScope() { facts = before_; }
  FactsScope(const FactsScope&) = delete;
  FactsScope& operator=(const FactsScope&) = delete;

 private:
  const CallFacts before_;
};

template <class T>
void note(CallFacts&, const T&) {}
void note(CallFacts& to, const Reduce& reduce) {
  if (reduce) to.reduction = static_cast<int8_t>(reduce->op_);
}
void note(CallFacts& to, const Splits& splits) {
  to.has_splits = !splits.empty();
}

// The operations and what c10d calls them with.
struct AllReduce {
  static constexpr const char* kName = "allreduce_";
  using Call = std::tuple<std::vector<Tensor>, Work>(TensorList, const Group&, const Reduce&,
                                                     const std::optional<Tensor>&, bool, int64_t);
};
struct AllReduceCoalesced {
  static constexpr const char* kName = "allreduce_coalesced_";
  using Call = Work(TensorList, const Group&, const Reduce&, bool, int64_t);
};
struct ReduceToRoot {
  static constexpr const char* kName = "reduce_";
  using Call = Work(TensorList, const Group&, const Reduce&, int64_t, int64_t, bool, int64_t);
};
struct ReduceScatter {
  static constexpr const char* kName = "reduce_scatter_";
  using Call = std::tuple<std::vector<Tensor>, Work>(const TensorList&, const Lists&, const Group&,
                                                     const Reduce&, bool, int64_t);
};
struct ReduceScatterBase {
  static constexpr const char* kName = "_reduce_scatter_base_";
  using Call = std::tuple<Tensor, Work>(Tensor&, Tensor&, const Group&, const Reduce&, bool,
                                        int64_t);
};
struct ReduceScatterCoalesced {
  static constexpr const char* kName = "reduce_scatter_tensor_coalesced_";
  using Call = Work(TensorList, TensorList, const Group&, const Reduce&, bool, int64_t);
};
struct AllToAllBase {
  static constexpr const char* kName = "alltoall_base_";
  using Call = Work(Tensor&, Tensor&, const Group&, Splits, Splits, bool, int64_t);
};

template <class Operation, class Call = typename Operation::Call>
struct Passage;
template <class Operation, class Result, class... Arguments>
struct Passage<Operation, Result(Arguments...)> {
  static Result pass(c10::DispatchKeySet keys, Arguments... arguments) {
    static const auto next = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow(kFullName().c_str(), "")
                                 .template typed<Result(Arguments...)>();
    CallFacts now;
    (note(now, arguments), ...);
    const FactsScope scope(now);
    return next.redispatch(keys & c10::after_ADInplaceOrView_keyset,
                           std::forward<Arguments>(arguments)...);
  }
  static std::string kFullName() { return std::string("c10d::") + Operation::kName; }
};

template <class... Operations>
void add_passages(torch::Library& library) {
  (library.impl(Operations::kName, TORCH_FN((&Passage<Operations>::pass))), ...);
}

}  // namespace

const CallFacts& CallFacts::current() {
  return facts;
}

void CallFacts::watch_calls() {
  static std::once_flag once;
  std::call_once(once, [] {
    // For good: it would take its kernels away with it.
    static auto* const library =
        new torch::Library(torch::Library::IMPL, "c10d", c10::DispatchKey::ADInplaceOrView,
                           __FILE__, static_cast<uint32_t>(__LINE__));
    add_passages<AllReduce, AllReduceCoalesced, ReduceToRoot, ReduceScatter, ReduceScatterBase,
                 ReduceScatterCoalesced, AllToAllBase>(*library);
  });
}

}  // namespace convoy::trace
