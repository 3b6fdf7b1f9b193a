#pragma once

#include "trace/analysis/wait_graph.h"
#include <convoy/trace/verdict.h>

#include <string>
#include <vector>

// Words for verdicts.
namespace convoy::trace {

std::string seconds_text(int64_t ns);                        // "1.25 s"
std::string ranks_text(const std::vector<uint32_t>& ranks);  // "rank 3", "ranks 3, 4, … (17)"
std::string group_name(const Registry& registry, uint32_t group);
std::string signature_text(const Signature& signature);  // "all_reduce float32 sum, 4096 bytes"
std::string place_text(const Registry& registry, const Place& place);

// A verdict of class `c` with its action; `ranks` are the culprit.
Verdict make_verdict(Class c, std::vector<uint32_t> ranks, int64_t onset, double confidence);
void add_evidence(Verdict& verdict, uint32_t rank, const Place& place, std::string text);
// Names the hosts of which all known ranks are to blame.
void add_hosts(Verdict& verdict, const ClockModel& clocks);

}  // namespace convoy::trace
