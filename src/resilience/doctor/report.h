#pragma once

#include "src/resilience/doctor/checks.h"

#include <string>
#include <string_view>

namespace convoy::resilience {

// An array of results as JSON, as checks hand them to the doctor; kDataLoss: it is none.
std::string results_to_json(const Results& results);
Result<Results> results_from_json(std::string_view text);

}  // namespace convoy::resilience
