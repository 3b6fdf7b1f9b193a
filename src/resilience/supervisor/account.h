#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace convoy::resilience {

// Where the job's time goes. At each moment it does one of these, so that they sum to the elapsed
// time. Pure; times are unix times, since supervisors follow each other.
class Account {
 public:
  enum class Part : uint8_t {
    kStarting,    // no step has been done yet
    kTraining,    // steps that are kept
    kRecovering,  // from the last step before a fault to the next one of all ranks
    kAgain,       // steps that a fault has lost are done once more
  };
  static constexpr size_t kParts = 4;

  Account() = default;
  explicit Account(double began) : since_(began) {}
  // As it was kept.
  Account(const std::array<double, kParts>& spent, Part part, double since)
      : spent_(spent), part_(part), since_(since) {}

  // From `at` on; a time before the part at present began is when that began.
  void enter(Part part, double at) {
    at = at < since_ ? since_ : at;
    spent_[index(part_)] += at - since_;
    part_ = part;
    since_ = at;
  }
  Part part() const { return part_; }
  double since() const { return since_; }
  const std::array<double, kParts>& spent() const { return spent_; }  // before since()
  double of(Part part, double now) const {
    return spent_[index(part)] + (part == part_ && now > since_ ? now - since_ : 0);
  }

 private:
  static size_t index(Part part) { return static_cast<size_t>(part); }

  std::array<double, kParts> spent_{};
  Part part_ = Part::kStarting;
  double since_ = 0;
};

// "starting", "training", "recovering", "again".
const char* name_of(Account::Part part);

}  // namespace convoy::resilience
