#pragma once

#include <cstdint>

namespace convoy::trace {

// What c10d's hooks leave out of a call, though ranks must agree on it.
struct CallFacts {
  int8_t reduction = -1;   // c10d::ReduceOp::RedOpType; -1: none, or not known
  bool has_splits = true;  // of an all-to-all: ranks may give different sizes

  // Of the call that this thread is in.
  static const CallFacts& current();
  // From now on every call of this process passes by here, on its way from autograd to its backend.
  // Costs it some 50 ns. Once; not needed for anything but the facts.
  static void watch_calls();
};

}  // namespace convoy::trace
