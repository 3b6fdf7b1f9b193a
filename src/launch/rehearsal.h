#pragma once

#include "src/launch/report.h"
#include <convoy/base/status.h>
#include <convoy/launch/launcher.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

// `convoy run --rehearse`: what ranks need to run on the stand-in for CUDA and NCCL (src/standin),
// and what their reports say together. Of this machine's ranks only.
namespace convoy::launch {

// Fills in what was left open and checks the rest; `ranks` are those of this machine.
Status complete_rehearsal(int ranks, Rehearsal* rehearsal);

// The libraries that are loaded before all others, in order: absolute paths. kInvalidArgument says
// how to get them when this build has none.
Result<std::vector<std::string>> standin_libraries();

// The folder of a rank's reports, one file for each of its processes.
std::string report_folder(const std::string& run_dir, int rank);
// Makes it, without reports of an earlier job.
Status make_report_folder(const std::string& folder);

// Adds to a rank's environment what makes it run on the stand-in. Libraries that were to be
// preloaded before stay in front: they may demand it, as sanitizers do. CUDA_VISIBLE_DEVICES goes,
// since it names real devices.
void add_rehearsal(const Rehearsal& rehearsal, const std::vector<std::string>& libraries,
                   const std::string& reports, std::map<std::string, std::string>* environment);

// One mistake, on all ranks that made it. Texts that differ in numbers only are the same one.
struct RehearsalFinding {
  std::string kind;
  std::string text;            // the first
  std::set<std::string> seen;  // all
  uint64_t count = 0;          // occurrences
  std::set<int> ranks;
};

// A simulated device; a rank that never allocated on it has no peak.
struct RehearsalDevice {
  uint64_t capacity = 0;
  std::map<int, uint64_t> peaks;  // bytes, by rank
};

struct RehearsalSummary {
  std::vector<RehearsalFinding> findings;  // by kind, then text
  std::map<int, RehearsalDevice> devices;  // those that were used
  std::vector<RankExit> unfinished;        // ranks that ended without their last report
  bool all_well = true;                    // every rank ended with 0
  std::vector<int> idle;                   // ranks that ran to their end and used no GPU
  uint64_t cut_off = 0;  // collectives that never met because a process died, and was replaced
};

// Reads the reports of the ranks, which have ended. `recovered`: the job went on after processes
// had died, so that a collective which never met for that reason is no mistake.
RehearsalSummary summarize_rehearsal(const std::string& run_dir, const std::vector<RankExit>& exits,
                                     bool recovered = false);

// What is said before the job, and after it.
std::string rehearsal_banner(const Rehearsal& rehearsal);
std::string rehearsal_text(const Rehearsal& rehearsal, const RehearsalSummary& summary,
                           const std::string& run_dir);
std::string rehearsal_event(const Rehearsal& rehearsal, const RehearsalSummary& summary);

// {0, 1, 2, 5} -> "rank 5", "ranks 0-2 and 5".
std::string name_ranks(const std::set<int>& ranks);

}  // namespace convoy::launch
