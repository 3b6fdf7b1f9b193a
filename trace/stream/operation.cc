#include <convoy/trace/operation.h>
#include <convoy/trace/segment.h>

#include <charconv>

namespace convoy::trace {
namespace {

constexpr char kBetween = '\x1f';
constexpr uint64_t kRanksMax = 1 << 20;

// The part before `separator`, which is taken off `rest` with it.
std::string_view next_part(std::string_view& rest, char separator) {
  const size_t at = rest.find(separator);
  const std::string_view part = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + 1);
  return part;
}

bool read_number(std::string_view text, uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number <= kRanksMax;
}

bool read_run(std::string_view text, std::vector<uint32_t>& ranks) {
  uint64_t begin = 0, step = 0, count = 0;
  if (!read_number(next_part(text, '+'), begin) || !read_number(next_part(text, '*'), step) ||
      !read_number(text, count) || ranks.size() + count > kRanksMax ||
      begin + step * count > UINT32_MAX) {
    return false;
  }
  for (uint64_t i = 0; i < count; ++i) ranks.push_back(static_cast<uint32_t>(begin + step * i));
  return true;
}

}  // namespace

std::string operation_text(const OperationKind& kind) {
  std::string text = kind.operation + "/" + kind.dtype + "/" + kind.reduction;
  if (kind.uneven) text += "/uneven";
  return text;
}

OperationKind parse_operation(std::string_view text) {
  OperationKind kind;
  kind.operation = next_part(text, '/');
  kind.dtype = next_part(text, '/');
  kind.reduction = next_part(text, '/');
  kind.uneven = text == "uneven";
  return kind;
}

std::string group_text(const GroupInfo& group) {
  std::string text = group.name.substr(0, layout::kNameLengthMax - 1) + kBetween;
  const size_t name_length = text.size();
  const std::vector<uint32_t>& ranks = group.ranks;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    const uint32_t step = end < ranks.size() && ranks[end] > ranks[i] ? ranks[end] - ranks[i] : 0;
    while (step > 0 && end < ranks.size() && ranks[end] > ranks[end - 1] &&
           ranks[end] - ranks[end - 1] == step) {
      ++end;
    }
    if (i > 0) text += ',';
    text += std::to_string(ranks[i]) + "+" + std::to_string(step) + "*" + std::to_string(end - i);
    i = end;
  }
  if (text.size() > layout::kNameLengthMax) text.resize(name_length);
  return text;
}

GroupInfo parse_group(std::string_view text) {
  GroupInfo group;
  group.name = next_part(text, kBetween);
  while (!text.empty()) {
    if (!read_run(next_part(text, ','), group.ranks)) {
      group.ranks.clear();
      break;
    }
  }
  return group;
}

std::string membership_text(const Membership& membership) {
  return membership.group.substr(0, layout::kNameLengthMax / 2) + kBetween + "@" +
         std::to_string(membership.number) + "/" + std::to_string(membership.size);
}

std::optional<Membership> parse_membership(std::string_view text) {
  Membership membership;
  membership.group = next_part(text, kBetween);
  if (text.empty() || text.front() != '@') return std::nullopt;
  text.remove_prefix(1);
  uint64_t number = 0, size = 0;
  if (!read_number(next_part(text, '/'), number) || !read_number(text, size) || number >= size) {
    return std::nullopt;
  }
  membership.number = static_cast<uint32_t>(number);
  membership.size = static_cast<uint32_t>(size);
  return membership;
}

}  // namespace convoy::trace
