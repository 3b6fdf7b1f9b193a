#pragma once

#include "src/cli/commands.h"
#include <convoy/trace/export.h>

#include <filesystem>
#include <memory>
#include <string>

// What the commands of `convoy trace` that read stream files share.
namespace convoy::cli {

void add_trace_export(CLI::App& group, Invocation& invocation);
void add_trace_query(CLI::App& group, Invocation& invocation);
void add_trace_diff(CLI::App& group, Invocation& invocation);

// A stream file that has been read once.
struct StreamFile {
  std::filesystem::path path;
  trace::Registry registry;
  trace::Selection selection;
  std::unique_ptr<trace::Survey> survey;
  std::vector<trace::Verdict> verdicts;
  bool truncated = false;  // it ends in the middle of a frame
  Status damage;           // what is wrong with it, behind what was read
};
// Fails where nothing of it can be read. What is wrong with the rest goes to stderr, too.
Result<std::unique_ptr<StreamFile>> survey_stream(const std::string& path,
                                                  trace::Selection selection);
// Reads it once more, into `to`, and finishes that.
Status export_stream(StreamFile& stream, trace::Exporter& to);

}  // namespace convoy::cli
