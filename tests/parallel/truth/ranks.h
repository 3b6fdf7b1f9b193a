#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>

namespace convoy::truth {

using Body = std::function<bool(int rank, const c10::intrusive_ptr<c10d::Store>& store)>;

// Forks `ranks` processes with a store among them (rank 0 serves it, on a port that the system
// chooses) and runs `body` in each. Returns main()'s exit code: 0 if every body returned true. A
// rank that throws, dies or returns false fails the run and ends the others. Call it before
// anything starts a thread.
int run_ranks(int ranks, const Body& body);

}  // namespace convoy::truth
