#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/summary.h>

#include <cstddef>
#include <filesystem>
#include <string>

namespace convoy::trace {

struct ReportOptions {
  std::string title;             // empty: the job's name
  size_t details_max = 6 << 20;  // bytes for single ranks, groups and collectives
};

// A job as one HTML file that needs no network: the page's views over what `summary` holds. Large
// jobs' ranks, groups and collectives are told one by one as far as they find room, culprits and
// the slowest first.
std::string report_html(const Summary& summary, const ReportOptions& options = {});
// Reads a stream file, runs the analysis over it and writes its report.
Status write_report(const std::filesystem::path& stream, const std::filesystem::path& html,
                    const ReportOptions& options = {});

}  // namespace convoy::trace
