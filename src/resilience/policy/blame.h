#pragma once

#include <convoy/resilience/policy.h>

#include <string>
#include <vector>

// Who is to blame for a fault, from what has happened before: the program, a node, or chance.
namespace convoy::resilience {

// The nodes on which a fault happened.
std::vector<int> nodes_of(const Job& job, const Fault& fault);

// Not empty: the program fails by itself, wherever it runs; recovering would only repeat that.
std::string program_to_blame(const History& history, const Fault& fault);

// Recoveries in a row, the coming one among them, that brought no step.
// What was done to the job from outside does not speak against its state.
struct Fruitless {
  int all = 0;  // but those that were asked for
  int from_inside = 0;
};
Fruitless recoveries_without_a_step(const History& history, const Fault& fault);

// Nodes that this fault makes unfit, until they have passed their checks.
std::vector<int> unfit_nodes(const Job& job, const History& history, const Fault& fault);

// The process that took a place on the fault's node has ended before it did a step, too: nothing
// works there.
bool fails_at_once(const Job& job, const History& history, const Fault& fault);

// How likely a node is to fail soon again, from what happened there within the last hour.
double risk_of(const History& history, int node, Seconds now);

}  // namespace convoy::resilience
