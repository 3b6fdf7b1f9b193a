#pragma once

#include "trace/analysis/slow/findings.h"

#include <vector>

namespace convoy::trace::slow {

// What would make the steps of `view` faster, best first.
std::vector<Hint> make_hints(const View& view);

}  // namespace convoy::trace::slow
