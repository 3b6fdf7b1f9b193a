#pragma once

#include "src/cli/commands.h"
#include <convoy/rpc/message.h>

#include <functional>
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

// From here on SIGINT and SIGTERM wait for await_end(); before other threads begin.
void hold_signals();
// Returns with the first of them; until then it calls `each_second`.
void await_end(const std::function<void()>& each_second);

}  // namespace convoy::cli
