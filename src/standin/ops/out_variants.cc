// Which operator is another one's out form is in no table of torch's, but the schemas tell: the
// same arguments, and behind them one to write to for each result.
#include "src/standin/ops/out_variants.h"

#include "src/standin/ops/call.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace convoy::standin {
namespace {

using c10::OperatorHandle;

bool is_functional(const c10::FunctionSchema& schema) {
  const auto is_tensor = [](const c10::Argument& result) {
    return *result.type() == *c10::TensorType::get() && result.alias_info() == nullptr;
  };
  const auto& results = schema.returns();
  return !results.empty() && std::all_of(results.begin(), results.end(), is_tensor) &&
         std::none_of(schema.arguments().begin(), schema.arguments().end(), writes);
}

bool is_out_of(const c10::FunctionSchema& out, const c10::FunctionSchema& functional) {
  const auto &given = functional.arguments(), &all = out.arguments();
  if (all.size() != given.size() + functional.returns().size()) return false;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i >= given.size()) {
      if (!writes(all[i])) return false;
    } else if (all[i].name() != given[i].name() || *all[i].type() != *given[i].type()) {
      return false;
    }
  }
  return true;
}

std::unordered_map<OperatorHandle, OperatorHandle> find_all() {
  auto& dispatcher = c10::Dispatcher::singleton();
  std::unordered_map<std::string, std::vector<OperatorHandle>> by_name;
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (const auto op = dispatcher.findSchema(name)) by_name[name.name].push_back(*op);
  }
  std::unordered_map<OperatorHandle, OperatorHandle> found;
  for (const auto& [name, overloads] : by_name) {
    for (const OperatorHandle& op : overloads) {
      if (!is_functional(op.schema())) continue;
      const auto out = std::find_if(overloads.begin(), overloads.end(), [&](const auto& other) {
        return other.hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
               is_out_of(other.schema(), op.schema());
      });
      if (out != overloads.end()) found.emplace(op, *out);
    }
  }
  return found;
}

}  // namespace

const OperatorHandle* out_variant(const OperatorHandle& op) {
  static const auto* all = new auto(find_all());  // never destroyed: used until the very end
  const auto found = all->find(op);
  return found == all->end() ? nullptr : &found->second;
}

}  // namespace convoy::standin
