#include "src/cli/trace_node.h"

#include <algorithm>
#include <csignal>
#include <ctime>
#include <fstream>
#include <iterator>

namespace convoy::cli {
namespace {

sigset_t ends() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void add_connection(CLI::App& app, ConnectionArguments& arguments) {
  app.add_option("--token-file", arguments.token_file,
                 "whose first line both sides must have in common; default: any client is taken")
      ->type_name("FILE");
  app.add_option("--tls-certificate", arguments.tls.certificate, "PEM file, of this machine");
  app.add_option("--tls-key", arguments.tls.key, "PEM file");
  app.add_option("--tls-roots", arguments.tls.roots, "PEM file, of who signs the other side's");
}

Result<std::string> token_in(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Status(Code::kNotFound, "the token's file " + path);
  std::string token;
  std::getline(file, token);
  const bool printable =
      std::ranges::all_of(token, [](unsigned char c) { return c > ' ' && c < 127; });
  if (token.empty() || token.size() > 4096 || !printable) {
    return Status(Code::kInvalidArgument, "the first line of " + path +
                                              " is no token: up to 4096 letters, digits and signs");
  }
  return token;
}

Result<rpc::ConnectionOptions> connection_of(const ConnectionArguments& arguments) {
  rpc::ConnectionOptions connection;
  connection.tls = arguments.tls;
  if (!arguments.token_file.empty()) {
    CONVOY_ASSIGN_OR_RETURN(connection.token, token_in(arguments.token_file));
  }
  return connection;
}

void hold_signals() {
  const sigset_t set = ends();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void await_end(const std::function<void()>& each_second) {
  const sigset_t set = ends();
  const timespec second{1, 0};
  while (::sigtimedwait(&set, nullptr, &second) < 0) each_second();
}

}  // namespace convoy::cli
