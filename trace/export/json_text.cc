#include "trace/export/json_text.h"

#include "trace/export/labels.h"

#include <nlohmann/json.hpp>

namespace convoy::trace {
namespace {

template <class Make>
const std::string& kept(std::vector<std::string>& all, uint32_t at, Make make) {
  if (at >= all.size()) all.resize(at + 1);
  if (all[at].empty()) append_quoted(all[at], make());
  return all[at];
}

}  // namespace

void append_quoted(std::string& to, std::string_view text) {
  to += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

const std::string& QuotedLabels::name(uint32_t name) {
  return kept(names_, name, [&] { return registry_.names()[name]; });
}

const std::string& QuotedLabels::operation(uint32_t signature) {
  return kept(operations_, signature, [&] { return label_of(registry_.signatures()[signature]); });
}

const std::string& QuotedLabels::group(uint32_t group) {
  if (group >= groups_.size()) groups_.resize(group + 1);
  std::string& out = groups_[group];
  if (out.empty() && !registry_.groups()[group].name.empty()) {
    append_quoted(out, registry_.groups()[group].name);
    out = out.substr(1, out.size() - 2);
  }
  return out;
}

}  // namespace convoy::trace
