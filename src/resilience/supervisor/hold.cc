// A generation that is left as planned, where state would be lost: it saves at a border of steps
// first and waits there, so that the next one begins with that step.
#include "src/resilience/supervisor/supervisor.h"

namespace convoy::resilience {
namespace {

// For a step, and for what it takes to save; then the ranks are asked again.
constexpr Nanos kHoldLimit = std::chrono::seconds(120);

}  // namespace

// Whether all ranks wait; else they are asked to.
bool Supervisor::holds(bool durably) {
  if (is_held_) return true;
  if (is_holding()) return false;
  hold_asked_at_ = clock_->now();
  for (const Worker* w : members()) {
    proto::ToNode order;
    order.mutable_tell()->set_worker(w->id);
    proto::Hold& hold = *order.mutable_tell()->mutable_what()->mutable_hold();
    hold.set_generation(state_.generation);
    hold.set_durable(durably);
    send_(w->node, order);
  }
  return false;
}

bool Supervisor::is_holding() const {
  return hold_asked_at_ && clock_->now() - *hold_asked_at_ < kHoldLimit;
}

// What they have waited for does not happen after all.
void Supervisor::let_go_of_hold() {
  if (!is_held_ || phase_ != Phase::kSteady) return;
  fault(FaultKind::kNetwork, {}, "ranks wait for a change of the mesh that is not made");
}

}  // namespace convoy::resilience
