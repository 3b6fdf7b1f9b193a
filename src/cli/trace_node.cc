#include "src/cli/trace_node.h"

#include <convoy/mesh/mesh.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <iterator>
#include <sstream>
#include <unistd.h>

namespace convoy::cli {
namespace {

sigset_t ends() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGINT);
  ::sigaddset(&set, SIGTERM);
  return set;
}

// Blocks until the launcher has closed `fd`.
void follow(int fd, trace::Collector* collector) {
  std::string text;
  std::array<char, 4096> bytes;
  for (ssize_t got = 0; (got = ::read(fd, bytes.data(), bytes.size())) != 0;) {
    if (got < 0 && errno != EINTR) return;
    if (got > 0) text.append(bytes.data(), static_cast<size_t>(got));
    for (size_t end = 0; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
      std::istringstream line(text.substr(0, end));
      std::string what;
      int pid = 0, status = 0;
      int64_t time = 0;
      if (collector == nullptr || !(line >> what)) continue;
      if (what == "stopped") collector->stopped();
      if (!(line >> pid)) continue;
      if (what == "watch") collector->watch(pid);
      if (what == "ended" && line >> status >> time) collector->ended(pid, status, time);
    }
  }
}

}  // namespace

void add_job(CLI::App& app, const char* job_help, JobArguments& arguments) {
  app.add_option("--job", arguments.job, job_help);
  CLI::Option* size =
      app.add_option("--world-size", arguments.world_size, "ranks of the job, for --mesh");
  app.add_option("--mesh", arguments.mesh, "how the ranks are arranged, as tp=2,pp=2,dp=2")
      ->needs(size);
  app.add_option("--launcher", arguments.launcher,
                 "descriptor on which `convoy run` tells whom to follow; it ends when that closes")
      ->type_name("FD");
}

Result<trace::JobInfo> job_of(const JobArguments& arguments) {
  trace::JobInfo job;
  job.job = arguments.job;
  job.world_size = static_cast<uint32_t>(arguments.world_size);
  if (arguments.mesh.empty()) return job;
  CONVOY_ASSIGN_OR_RETURN(const Mesh mesh, Mesh::parse(arguments.mesh, arguments.world_size));
  for (const MeshDim& dim : mesh.dims()) {
    job.mesh.push_back({dim.name, static_cast<uint32_t>(dim.size)});
  }
  return job;
}

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

void await_end(int launcher, trace::Collector* collector) {
  if (launcher >= 0) return follow(launcher, collector);
  const sigset_t set = ends();
  int signal = 0;
  ::sigwait(&set, &signal);
}

}  // namespace convoy::cli
