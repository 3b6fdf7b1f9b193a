#include <convoy/trace/event.h>

#include <algorithm>
#include <array>
#include <functional>

namespace convoy::trace {
namespace {

constexpr std::array kLives = {"unknown", "running", "stopped", "blocked", "exited", "killed"};

}  // namespace

const char* name_of(Life life) {
  return kLives[static_cast<size_t>(life)];
}

std::optional<Life> life_of(std::string_view name) {
  const auto* const at = std::find(kLives.begin(), kLives.end(), name);
  if (at == kLives.end()) return std::nullopt;
  return static_cast<Life>(at - kLives.begin());
}

uint32_t Registry::group(const GroupInfo& info) {
  const auto [at, is_new] = group_of_.try_emplace(info.name, static_cast<uint32_t>(groups_.size()));
  if (is_new) {
    groups_.push_back(info);
  } else if (groups_[at->second].ranks.empty()) {
    groups_[at->second].ranks = info.ranks;
  }
  return at->second;
}

uint32_t Registry::signature(const Signature& signature) {
  const auto [at, is_new] =
      signature_of_.try_emplace(signature, static_cast<uint32_t>(signatures_.size()));
  if (is_new) signatures_.push_back(signature);
  return at->second;
}

uint32_t Registry::name(std::string_view name) {
  const auto [at, is_new] =
      name_of_.try_emplace(std::string(name), static_cast<uint32_t>(names_.size()));
  if (is_new) names_.emplace_back(name);
  return at->second;
}

std::optional<uint32_t> Registry::find_name(std::string_view name) const {
  const auto at = name_of_.find(std::string(name));
  if (at == name_of_.end()) return std::nullopt;
  return at->second;
}

size_t Registry::SignatureHash::operator()(const Signature& s) const {
  const auto mix = [](size_t seed, uint64_t value) {
    return (seed ^ value) * 0x9e3779b97f4a7c15 + (seed >> 29);
  };
  size_t h = std::hash<std::string>()(s.operation);
  h = mix(h, std::hash<std::string>()(s.dtype));
  h = mix(h, std::hash<std::string>()(s.reduction));
  h = mix(h, s.group);
  h = mix(h, uint64_t{static_cast<uint32_t>(s.root)} << 32 | static_cast<uint32_t>(s.peer));
  return mix(h, s.bytes * 2 + static_cast<uint64_t>(s.uneven));
}

}  // namespace convoy::trace
