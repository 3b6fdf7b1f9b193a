#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/tier.h>

#include <array>
#include <cstddef>

namespace convoy::ckpt {

// How far a step has come, for each tier: on its way there, there, or kept from it by what the
// status says. Nothing is inferred from another tier. Plain data.
class StepProgress {
 public:
  void reach(Tier tier) { at(tier) = {State::kReached, {}}; }
  void fail(Tier tier, const Status& why) {
    if (at(tier).state != State::kReached) at(tier) = {State::kFailed, why};
  }
  // In all tiers where it is not yet.
  void fail(const Status& why) {
    for (size_t i = 0; i < tiers_.size(); ++i) fail(static_cast<Tier>(i), why);
  }
  // On its way after all.
  void plan(Tier tier) {
    if (at(tier).state != State::kReached) at(tier) = {};
  }
  bool is_there(Tier tier) const { return at(tier).state == State::kReached; }
  bool is_failed(Tier tier) const { return at(tier).state == State::kFailed; }
  // False: on its way. A failure if it never comes there.
  Result<bool> reached(Tier tier) const {
    if (is_failed(tier)) return at(tier).why;
    return is_there(tier);
  }

 private:
  enum class State { kOnItsWay, kReached, kFailed };
  struct One {
    State state = State::kOnItsWay;
    Status why;  // of kFailed
  };
  One& at(Tier tier) { return tiers_[static_cast<size_t>(tier)]; }
  const One& at(Tier tier) const { return tiers_[static_cast<size_t>(tier)]; }
  std::array<One, kTiers> tiers_;
};

}  // namespace convoy::ckpt
