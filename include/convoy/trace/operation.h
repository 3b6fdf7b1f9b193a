#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// How operations stand in a segment: the contract between those who record them (c10d's hooks, the
// NCCL plugin) and whoever drains the rings.
//
// Each of kIssued, kStarted and kCompleted carries in its record
//   group     the interned text of its group, group_text()
//   name      the interned text of its kind, operation_text()
//   sequence  as Operation::sequence
//   extra     root or peer as a rank of the job, plus 1; 0: none
//   value     kIssued: bytes; kCompleted: 0, or ns that it has run where the recorder knows better
//             than the records' times
// and those of one operation agree in the first four. They may be in different rings, and a message
// that any rank may send has its records only when it has come, with the time of the call.
//
// Records of kCounter: extra is the rank of the job at the link's other end, plus 1; 0: none.
namespace convoy::trace {

struct OperationKind {
  std::string operation, dtype, reduction;  // as in Signature
  bool uneven = false;
  bool operator==(const OperationKind&) const = default;
};

// "all_reduce/float32/sum", "all_to_all/bfloat16//uneven"
std::string operation_text(const OperationKind& kind);
OperationKind parse_operation(std::string_view text);
inline bool is_message(std::string_view operation) {
  return operation == "send" || operation == "recv";
}

// The name and the ranks as runs, "tp[0]\x1f" "0+1*2" (begin + step * count, joined by commas).
// Without ranks where the text would be longer than an interned name.
std::string group_text(const GroupInfo& group);
// Takes any text; ranks that don't read as such are left out.
GroupInfo parse_group(std::string_view text);

// In place of group_text() where the recorder knows its own number in the group, but not which
// ranks of the job the others are: "nccl/5336c8df\x1f" "@3/8", number 3 of 8. In records of such a
// group `extra` is a number in the group, plus 1. Who has the texts of all members' segments, and
// so their ranks, can tell which rank each number is. parse_group() finds the name, and no ranks.
struct Membership {
  std::string group;
  uint32_t number = 0, size = 0;
  bool operator==(const Membership&) const = default;
};
std::string membership_text(const Membership& membership);
std::optional<Membership> parse_membership(std::string_view text);

}  // namespace convoy::trace
