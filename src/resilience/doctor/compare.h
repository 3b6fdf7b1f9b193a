#pragma once

#include <convoy/resilience/doctor.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::resilience {

double median_of(std::vector<double> values);

struct Deviation {
  double median = 0;
  double mad = 0;
  double times_worse = 0;
};
// How far `value` is from its siblings', if that is far enough to stand out; see compare_reports().
std::optional<Deviation> stands_out(double value, const std::vector<double>& siblings,
                                    Better better, std::string_view unit);

// "disk" of "disk.fsync".
std::string topic_of(const CheckResult& result);
// Peers are siblings, too: a link that is worse than the others is seen by a single node. Makes
// good results of "network" warnings where a peer stands out among at least three.
void compare_peers(std::vector<CheckResult>& results);

}  // namespace convoy::resilience
