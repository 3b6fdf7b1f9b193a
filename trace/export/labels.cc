#include "trace/export/labels.h"

#include <convoy/base/units.h>

namespace convoy::trace {

std::string label_of(const Signature& signature) {
  std::string out = signature.operation;
  if (signature.is_message()) {
    out += (signature.operation == "recv" ? " from " : " to ") + std::to_string(signature.peer);
  }
  if (!signature.dtype.empty()) out += " " + signature.dtype;
  if (!signature.reduction.empty()) out += " " + signature.reduction;
  if (signature.root >= 0) out += " root " + std::to_string(signature.root);
  if (signature.bytes > 0) out += " " + format_bytes(signature.bytes);
  return out;
}

std::string track_label(const std::string& group, bool message, bool receives) {
  if (!message) return group;
  return group + (receives ? " receive" : " send");
}

std::string group_kind(const std::string& group) {
  const size_t bracket = group.find('[');
  return bracket == 0 || bracket == std::string::npos ? group : group.substr(0, bracket);
}

std::string counter_label(const std::string& name, int32_t peer) {
  return peer < 0 ? name : name + " to " + std::to_string(peer);
}

std::string culprit_label(const Culprit& culprit, const Registry& registry) {
  std::string out;
  const auto add = [&](const std::string& one) { out += (out.empty() ? "" : ", ") + one; };
  for (const uint32_t rank : culprit.ranks) add("rank " + std::to_string(rank));
  for (const auto& [from, to] : culprit.links) {
    add("link " + std::to_string(from) + " -> " + std::to_string(to));
  }
  for (const std::string& host : culprit.hosts) add("host " + host);
  for (const uint32_t group : culprit.groups) {
    if (group < registry.groups().size()) add("group " + registry.groups()[group].name);
  }
  if (culprit.stage >= 0) add("stage " + std::to_string(culprit.stage));
  return out;
}

}  // namespace convoy::trace
