#pragma once

#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <string>

// How exports call what they show.
namespace convoy::trace {

// "all_reduce float32 sum 64 MiB", "send to 5 bfloat16 4 MiB"
std::string label_of(const Signature& signature);
// "dp[0]", "pp[1] send"
std::string track_label(const std::string& group, bool message, bool receives);
// What all groups of one kind are called: "tp" of "tp[3]"; a name without brackets stays.
std::string group_kind(const std::string& group);
// "link sent bytes to 5"
std::string counter_label(const std::string& name, int32_t peer);
// "rank 3, link 1 -> 2, host node0"; empty: nobody in particular.
std::string culprit_label(const Culprit& culprit, const Registry& registry);

}  // namespace convoy::trace
