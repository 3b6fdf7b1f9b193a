#pragma once

#include <cstdint>
#include <string_view>

// Fault points: named places where a test can make the product fail, in the shipped binary.
//
// CONVOY_FAULT="launch.spawn@2,comm.send" arms the second passage of `launch.spawn` and the first
// of `comm.send`; each fires once. Unarmed, a point costs one load and a branch that is never
// taken. Thread-safe.
namespace convoy::fault {

// Whether the fault at `point` strikes now. A fired fault says so on stderr, so that a test can
// prove that it caused what it checks.
bool strikes(std::string_view point);

// Ends this process with SIGKILL if the fault at `point` strikes now.
void die_at(std::string_view point);

// Replaces what is armed (same grammar as CONVOY_FAULT); "" disarms all. For tests in one process.
void arm(std::string_view spec);

}  // namespace convoy::fault
