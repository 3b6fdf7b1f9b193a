#pragma once

#include "src/cli/commands.h"
#include <convoy/rpc/message.h>
#include <convoy/trace/collector.h>
#include <convoy/trace/event.h>

#include <string>
#include <vector>

// What `convoy trace serve` and `collect` have in common.
namespace convoy::cli {

void add_trace_serve(CLI::App& group, Invocation& invocation);
void add_trace_collect(CLI::App& group, Invocation& invocation);

struct ConnectionArguments {
  std::string token_file;
  rpc::TlsFiles tls;
};
void add_connection(CLI::App& app, ConnectionArguments& arguments);
// kNotFound, kInvalidArgument: the token's file.
Result<rpc::ConnectionOptions> connection_of(const ConnectionArguments& arguments);

// The first line of `file`. kNotFound, kInvalidArgument.
Result<std::string> token_in(const std::string& file);

struct JobArguments {
  std::string job, mesh;
  int world_size = 0;
  int launcher = -1;  // descriptor, see await_end(); -1: none
};
// `job_help`: of --job.
void add_job(CLI::App& app, const char* job_help, JobArguments& arguments);
// kInvalidArgument: the mesh.
Result<trace::JobInfo> job_of(const JobArguments& arguments);

// From here on SIGINT and SIGTERM wait for await_end(); before other threads begin.
void hold_signals();
// Returns with the first of them. With a launcher: when that closes its end or has gone, whatever
// signals come; until then it tells which processes to follow, a line each: "watch PID", and
// "ended PID STATUS TIME", "stopped": see Collector.
void await_end(int launcher, trace::Collector* collector);

}  // namespace convoy::cli
