// `convoy agent`: the process of a node that keeps checkpoints for its ranks.
#include "src/cli/commands.h"
#include <convoy/base/fd.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/agent.h>
#include <convoy/launch/environment.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <fcntl.h>
#include <memory>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::cli {
namespace {

struct AgentArguments {
  ckpt::AgentOptions options;
  std::string idle_exit = "0";
  std::string scrub_every = "6h";
  std::string scrub_bandwidth = "32MiB";
  bool detach = false;
  std::string listen;
};

// "HOST" or "HOST:PORT".
Status read_listen(const std::string& text, ckpt::ClusterListen& listen) {
  const size_t colon = text.rfind(':');
  listen.host = text.substr(0, colon);
  if (colon == std::string::npos) return ok_status();
  const std::string port = text.substr(colon + 1);
  unsigned value = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc() || end != port.data() + port.size() || value > 65535) {
    return {Code::kInvalidArgument, "--listen " + text + ": HOST or HOST:PORT"};
  }
  listen.port = static_cast<uint16_t>(value);
  return ok_status();
}

constexpr const char* kFooter =
    R"(It outlives the trainers of a job: one that is started again finds its newest snapshot in memory.
A program that nobody gave an agent starts one itself (CONVOY_AGENT in `convoy env`).

  convoy agent --name my-agent --detach --idle-exit 5m

SIGTERM: ends once everything that was handed over is durable. A second one: at once.

Exit codes: 0 ended so, or with --detach: it listens; 64 bad option; 69 somebody has the name.)";

Status complete(AgentArguments* a) {
  CONVOY_ASSIGN_OR_RETURN(a->options.idle_exit, parse_duration("--idle-exit", a->idle_exit));
  CONVOY_ASSIGN_OR_RETURN(a->options.scrub_every, parse_duration("--scrub-every", a->scrub_every));
  CONVOY_ASSIGN_OR_RETURN(a->options.scrub_bandwidth,
                          parse_bytes("--scrub-bandwidth", a->scrub_bandwidth));
  // What ranks of this machine listen at is what others reach.
  if (a->listen.empty()) {
    a->options.listen.host = launch::process_getenv()("CONVOY_ADDRESS").value_or("");
    return ok_status();
  }
  return read_listen(a->listen, a->options.listen);
}

int run(const ckpt::AgentOptions& options) {
  const Status status = ckpt::run_agent(options);
  return status.ok() ? 0 : fail(status);
}

// Returns when the agent, a process in a session of its own, listens or has failed.
int run_detached(ckpt::AgentOptions options) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail(errno_status("making a pipe", errno));
  UniqueFd listens(ends[0]), says(ends[1]);
  const pid_t agent = ::fork();
  if (agent < 0) return fail(errno_status("forking the agent", errno));
  if (agent == 0) {
    listens.reset();
    ::setsid();
    options.ready = [&says] {
      [[maybe_unused]] const auto told = ::write(says.get(), "1", 1);
      says.reset();
    };
    return run(options);
  }
  says.reset();
  char word = 0;
  if (::read(listens.get(), &word, 1) == 1) return 0;
  int status = 0;
  ::waitpid(agent, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

void add_agent(CLI::App& root, Invocation& invocation) {
  CLI::App* app =
      root.add_subcommand("agent", "Keep this node's checkpoints, beyond the life of its trainers");
  const auto arguments = std::make_shared<AgentArguments>();  // shared with the callback
  ckpt::AgentOptions& options = arguments->options;
  app->add_option("--name", options.name, "of its socket")->required();
  app->add_option("--lifeline", options.lifeline,
                  "a descriptor whose other end closes when the agent should end");
  app->add_option("--listener", options.listener, "")->group("");  // of `convoy run`
  app->add_option("--launcher", options.launcher, "")->group("");
  app->add_option("--idle-exit", arguments->idle_exit,
                  "end when nobody was connected for so long and all is written; default: never")
      ->type_name("TIME");
  app->add_option(
         "--scrub-every", arguments->scrub_every,
         "read committed steps again so often, mend what is damaged from memory, and tell; "
         "default: 6h; 0: never")
      ->type_name("TIME");
  app->add_option("--scrub-bandwidth", arguments->scrub_bandwidth,
                  "bytes a second of that; default: 32MiB; 0: no limit")
      ->type_name("SIZE");
  app->add_flag("--detach", arguments->detach,
                "return once it listens, and leave it behind in a session of its own");
  app->add_option("--listen", arguments->listen,
                  "where agents of other machines reach this one, HOST or HOST:PORT; default: "
                  "CONVOY_ADDRESS, or this machine's name; any port")
      ->type_name("ADDRESS");
  app->add_option("--tls-certificate", options.listen.certificate, "PEM file, of this machine");
  app->add_option("--tls-key", options.listen.key, "PEM file");
  app->add_option("--tls-roots", options.listen.roots, "PEM file, of who signs all machines'");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = complete(arguments.get());
    invocation.exit_code = !status.ok()        ? fail(status)
                           : arguments->detach ? run_detached(arguments->options)
                                               : run(arguments->options);
  });
}

}  // namespace convoy::cli
