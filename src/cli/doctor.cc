// `convoy doctor`: is this node fit for a job, and which of several is not?
#include "src/cli/commands.h"
#include "src/cli/table.h"
#include <convoy/base/atomic_file.h>
#include <convoy/base/socket.h>
#include <convoy/base/units.h>
#include <convoy/resilience/doctor.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <sys/signalfd.h>

namespace convoy::cli {
namespace {

using resilience::CheckResult;
using resilience::DoctorReport;
using resilience::Verdict;

constexpr int kExitUnfit = 75;
constexpr size_t kReportMax = 4UL << 20;  // bytes of a file for --compare

struct DoctorArguments {
  resilience::DoctorOptions options;
  std::vector<std::string> peers;
  std::string space, memory, bandwidth;
  std::string save;
  std::vector<std::string> compare;
  int listen = -1;
  bool json = false;
};

constexpr const char* kFooter =
    R"(Before a job, or before a node comes back:

  convoy doctor --disk /data/checkpoints               what is wrong with this node
  convoy doctor --listen 29900                         on each node, until Ctrl-C; and then on each
  convoy doctor --peer node1:29900 --peer node2:29900 --save $(hostname).json
  convoy doctor --compare *.json                       which node is slower than the others

A check that hangs is given up and named. Nothing is left behind, on disks neither. Start it as jobs are
started (by Slurm, systemd, in the container): limits are those of this process. docs/doctor.md has all checks.

Exit codes: 0 fit, perhaps with warnings; 75 a check failed, or with --compare a node stands out; 64 bad
option; 65 a file is no report; 66 no such file; 69 the port of --listen is in use.)";

Status complete(DoctorArguments* a) {
  if (a->options.folders.empty()) a->options.folders = {"."};
  for (const std::string& text : a->peers) {
    CONVOY_ASSIGN_OR_RETURN(resilience::Peer peer, resilience::parse_peer(text));
    a->options.peers.push_back(std::move(peer));
  }
  if (!a->space.empty()) {
    CONVOY_ASSIGN_OR_RETURN(a->options.space_min, parse_bytes("--need-space", a->space));
  }
  if (!a->memory.empty()) {
    CONVOY_ASSIGN_OR_RETURN(a->options.memory_min, parse_bytes("--need-memory", a->memory));
  }
  if (!a->bandwidth.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const uint64_t bytes, parse_bytes("--need-bandwidth", a->bandwidth));
    a->options.bandwidth_min = static_cast<double>(bytes);
  }
  return ok_status();
}

std::string label(const CheckResult& result) {
  return printable(result.name + (result.subject.empty() ? "" : " " + result.subject));
}

// What there is to do, behind the table.
void print_advice(const CheckResult& r) {
  if (r.advice.empty()) return;
  std::printf("\n%s %s: %s\n", std::string(resilience::verdict_name(r.verdict)).c_str(),
              label(r).c_str(), printable(r.found).c_str());
  std::printf("    expected: %s\n    %s\n", printable(r.expected).c_str(),
              printable(r.advice).c_str());
}

void print(const DoctorReport& report) {
  Table table({"", "CHECK", "FOUND"}, 2);
  for (const CheckResult& r : report.results) {
    table.add({std::string(resilience::verdict_name(r.verdict)), label(r), printable(r.found)});
  }
  table.print();
  for (const CheckResult& result : report.results) print_advice(result);
  const auto count = [&report](Verdict verdict) {
    return std::count_if(report.results.begin(), report.results.end(),
                         [verdict](const CheckResult& r) { return r.verdict == verdict; });
  };
  std::printf("\n%s: %s; %zu checks in %.1f s, %td failed, %td with warnings\n",
              printable(report.node).c_str(),
              count(Verdict::kFail) > 0 ? "NOT fit for a job" : "fit for a job",
              report.results.size(), report.seconds, count(Verdict::kFail), count(Verdict::kWarn));
}

Result<int> examine(DoctorArguments& arguments) {
  CONVOY_RETURN_IF_ERROR(complete(&arguments));
  std::optional<AtomicFile> file;  // first: a run whose report can't be written is of no use
  if (!arguments.save.empty()) {
    CONVOY_ASSIGN_OR_RETURN(AtomicFile created, AtomicFile::create(arguments.save));
    file.emplace(std::move(created));
  }
  CONVOY_ASSIGN_OR_RETURN(const DoctorReport report, resilience::run_doctor(arguments.options));
  const std::string text = resilience::to_json(report) + "\n";
  if (file) {
    CONVOY_RETURN_IF_ERROR(file->append(std::as_bytes(std::span(text))));
    CONVOY_RETURN_IF_ERROR(file->commit());
  }
  if (arguments.json) {
    std::fputs(text.c_str(), stdout);
  } else {
    print(report);
  }
  return resilience::verdict_of(report) == Verdict::kFail ? kExitUnfit : 0;
}

// SIGINT and SIGTERM end it.
Result<int> listen(uint16_t port) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  const UniqueFd stop(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!stop) return errno_status("waiting for signals", errno);
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd listener, listen_tcp(port));
  CONVOY_ASSIGN_OR_RETURN(port, bound_port(listener.get()));
  std::printf("listening on port %d\n", port);
  std::fflush(stdout);
  CONVOY_RETURN_IF_ERROR(resilience::serve_peers(listener, stop));
  return 0;
}

Result<DoctorReport> read_report(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return errno_status("opening " + path, errno);
  std::string text(kReportMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  Result<DoctorReport> report = resilience::report_from_json(text);
  if (!report.ok()) return report.status().with_context(path);
  return report;
}

std::string to_json(const resilience::Comparison& comparison) {
  nlohmann::ordered_json json = {{"nodes", comparison.nodes}, {"metrics", comparison.metrics}};
  json["outliers"] = nlohmann::ordered_json::array();
  for (const resilience::Outlier& o : comparison.outliers) {
    json["outliers"].push_back({{"node", o.node},
                                {"name", o.name},
                                {"value", o.value},
                                {"median", o.median},
                                {"mad", o.mad},
                                {"times_worse", o.times_worse},
                                {"unit", o.unit}});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void print(const resilience::Comparison& comparison) {
  for (const resilience::Outlier& o : comparison.outliers) {
    const auto text = [&o](double value) { return resilience::format_value(value, o.unit); };
    const bool has_spread = comparison.nodes > 2;
    const std::string spread = has_spread ? " (median; MAD " + text(o.mad) + ")" : "";
    std::printf("%s stands out: %s is %s, %.1f times worse than the %s %s%s\n",
                printable(o.node).c_str(), printable(o.name).c_str(), text(o.value).c_str(),
                o.times_worse, has_spread ? "others'" : "other's", text(o.median).c_str(),
                spread.c_str());
  }
  if (comparison.outliers.empty()) {
    std::printf("%zu nodes, %zu metrics: none stands out\n", comparison.nodes, comparison.metrics);
  }
}

Result<int> compare(const DoctorArguments& arguments) {
  std::vector<DoctorReport> reports;
  for (const std::string& path : arguments.compare) {
    CONVOY_ASSIGN_OR_RETURN(DoctorReport report, read_report(path));
    reports.push_back(std::move(report));
  }
  CONVOY_ASSIGN_OR_RETURN(const resilience::Comparison comparison,
                          resilience::compare_reports(reports));
  if (arguments.json) {
    std::printf("%s\n", to_json(comparison).c_str());
  } else {
    print(comparison);
  }
  return comparison.outliers.empty() ? 0 : kExitUnfit;
}

Result<int> run(DoctorArguments& arguments) {
  if (!arguments.compare.empty()) return compare(arguments);
  if (arguments.listen >= 0) return listen(static_cast<uint16_t>(arguments.listen));
  return examine(arguments);
}

// --listen and --compare are other things to do than to examine this node.
Status check_together(const CLI::App& app) {
  for (const char* alone : {"--listen", "--compare"}) {
    if (app.count(alone) == 0) continue;
    for (const CLI::Option* option : app.get_options()) {
      const std::string name = option->get_name();
      if (option->count() == 0 || name == alone || name == "--json") continue;
      return {Code::kInvalidArgument, std::string(alone) + " goes with no " + name};
    }
  }
  return ok_status();
}

void add_options(CLI::App* app, DoctorArguments& a) {
  app->add_option("--disk", a.options.folders,
                  "a folder that jobs write to, may be given again; default: the current one")
      ->type_name("FOLDER")
      ->allow_extra_args(false);
  app->add_option("--peer", a.peers, "another node's `convoy doctor --listen`, may be given again")
      ->type_name("HOST:PORT")
      ->allow_extra_args(false);
  app->add_flag("--quick", a.options.is_quick, "within 1 s instead of 5; measures less exactly");
  app->add_option("--need-space", a.space, "free in each folder; default: 1GiB")->type_name("SIZE");
  app->add_option("--need-memory", a.memory, "available; default: 1GiB")->type_name("SIZE");
  app->add_option("--need-bandwidth", a.bandwidth,
                  "a second, to and from each peer, else a warning; default: 50MiB")
      ->type_name("SIZE");
  app->add_option("--node", a.options.node, "its name in the report; default: this machine's");
  app->add_option("--save", a.save, "write the report to this file, for --compare")
      ->type_name("FILE");
  app->add_flag("--json", a.json, "print one line of JSON instead");
  app->add_option("--listen", a.listen,
                  "let other nodes measure the network to this one; 0: any free port")
      ->type_name("PORT")
      ->check(CLI::Range(0, 65535).description(""));
  app->add_option("--compare", a.compare, "which of the nodes that saved these stands out")
      ->type_name("FILE");
}

}  // namespace

void add_doctor(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand(
      "doctor", "Check whether this node is fit for a job, and which of several is slow");
  const auto arguments = std::make_shared<DoctorArguments>();  // shared with the callback
  add_options(app, *arguments);
  app->footer(kFooter);
  app->callback([app, &invocation, arguments] {
    const Status together = check_together(*app);
    const Result<int> code = together.ok() ? run(*arguments) : together;
    invocation.exit_code = code.ok() ? code.value() : fail(code.status());
  });
}

}  // namespace convoy::cli
