// What `convoy trace serve` does with the events that come together in it.
#include "src/cli/trace_consumers.h"

#include "src/cli/table.h"
#include "src/cli/trace_node.h"
#include <convoy/base/log.h>
#include <convoy/trace/alerts.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/page.h>
#include <convoy/trace/report.h>
#include <convoy/trace/stream.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>

namespace convoy::cli {
namespace {

constexpr int64_t kBetweenLooks = 250'000'000;      // ns, between two diagnoses
constexpr int64_t kBetweenFlushes = 1'000'000'000;  // ns, also between two sets of hints
constexpr size_t kToldAtEnd = 10;                   // verdicts
constexpr double kSure = 0.8;                       // enough to act on it

void print(const trace::Verdict& v) {
  const char* what = v.withdrawn ? "withdrawn:" : v.cleared != 0 ? "over:" : "found:";
  std::printf("%s %s: %s\n", what, trace::name_of(v.cls), printable(v.summary).c_str());
  if (v.cleared == 0 && !v.action.empty()) std::printf("  do: %s\n", printable(v.action).c_str());
  std::fflush(stdout);
}

// What the job's supervisor may do about it; "": nothing.
const char* kind_for_supervisor(trace::Class cls) {
  switch (cls) {
    case trace::Class::kHostHang:
    case trace::Class::kGpuStuck:
    case trace::Class::kNotJoined:
    case trace::Class::kMissingCall:  // by mistake, or since something else went wrong before
      return "hang";
    case trace::Class::kDesyncOrder:
    case trace::Class::kMismatchSize:
    case trace::Class::kMismatchDtype:
    case trace::Class::kMismatchRoot:
    case trace::Class::kMismatchReduction:
      return "mismatch";
    case trace::Class::kSlowCompute:
    case trace::Class::kSlowHost:
    case trace::Class::kSlowNic:
    case trace::Class::kSlowTx:
    case trace::Class::kSlowRx:
      return "slow";
    default:
      return "";
  }
}

// A line that src/launch/tracer.cc reads.
void print_for_launcher(const trace::Verdict& v, int64_t now) {
  const std::string kind = kind_for_supervisor(v.cls);
  if (kind.empty() || v.cleared != 0 || v.withdrawn || v.confidence < kSure) return;
  const nlohmann::ordered_json json = {{"verdict", kind},
                                       {"ranks", v.culprit.ranks},
                                       {"text", printable(v.summary)},
                                       {"age_s", static_cast<double>(now - v.onset) * 1e-9},
                                       {"cost", v.cost}};
  const auto replace = nlohmann::ordered_json::error_handler_t::replace;
  std::printf("%s\n", json.dump(-1, ' ', false, replace).c_str());
  std::fflush(stdout);
}

}  // namespace

void add_consumers(CLI::App& app, ConsumerArguments& arguments) {
  CLI::Option* file =
      app.add_option("--run-file", arguments.run_file, "keep everything in this file")
          ->type_name("FILE");
  app.add_option("--report", arguments.report, "at the end, write the run file as one HTML page")
      ->type_name("FILE")
      ->needs(file);
  CLI::Option* page =
      app.add_option("--page", arguments.page, "a live page at this port; 0: any free one")
          ->type_name("PORT")
          ->check(CLI::Range(0, 65535));
  app.add_option("--page-address", arguments.page_address,
                 "where the page listens; others than 127.0.0.1 need a token")
      ->needs(page);
  app.add_option("--page-token-file", arguments.page_token_file,
                 "the page asks for what stands in this file")
      ->type_name("FILE")
      ->needs(page);
  app.add_option("--alert", arguments.alert_url, "POST each verdict there as JSON")
      ->type_name("URL");
}

struct Consumers::Impl {
  trace::Registry registry;
  ConsumerArguments arguments;
  trace::Diagnoser diagnoser{registry};
  std::unique_ptr<trace::StreamWriter> writer;
  std::unique_ptr<trace::Page> page;
  std::unique_ptr<trace::Alerts> alerts;
  int64_t last_look = 0, last_flush = 0;

  void look(int64_t now) {
    const std::vector<trace::Verdict> changed = diagnoser.diagnose(now);
    for (const trace::Verdict& v : changed) {
      print(v);
      if (arguments.for_launcher) print_for_launcher(v, now);
      if (alerts != nullptr) alerts->tell(v);
    }
    if (page != nullptr && !changed.empty()) page->set_verdicts(diagnoser.verdicts());
  }

  void sum_up() const {
    const std::vector<trace::Verdict>& all = diagnoser.verdicts();
    if (all.empty()) std::printf("verdicts: none\n");
    for (size_t i = 0; i < std::min(all.size(), kToldAtEnd); ++i) {
      std::printf("verdict: %s: %s%s\n", trace::name_of(all[i].cls),
                  printable(all[i].summary).c_str(), all[i].cleared != 0 ? "; over" : "");
    }
    if (all.size() > kToldAtEnd) std::printf("verdicts: %zu more\n", all.size() - kToldAtEnd);
    std::fflush(stdout);
  }
};

Consumers::Consumers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Consumers::~Consumers() = default;

Result<std::unique_ptr<Consumers>> Consumers::create(const ConsumerArguments& arguments) {
  auto impl = std::make_unique<Impl>();
  impl->arguments = arguments;
  if (!arguments.run_file.empty()) {
    CONVOY_ASSIGN_OR_RETURN(impl->writer,
                            trace::StreamWriter::create(arguments.run_file, impl->registry));
  }
  if (arguments.page >= 0) {
    trace::PageOptions options;
    options.address = arguments.page_address;
    options.port = static_cast<uint16_t>(arguments.page);
    if (!arguments.page_token_file.empty()) {
      CONVOY_ASSIGN_OR_RETURN(options.token, token_in(arguments.page_token_file));
    }
    CONVOY_ASSIGN_OR_RETURN(impl->page, trace::Page::start(impl->registry, options));
  }
  if (!arguments.alert_url.empty()) {
    trace::AlertOptions options;
    options.url = arguments.alert_url;
    CONVOY_ASSIGN_OR_RETURN(impl->alerts, trace::Alerts::start(impl->registry, options));
  }
  return std::unique_ptr<Consumers>(new Consumers(std::move(impl)));
}

trace::Registry& Consumers::registry() {
  return impl_->registry;
}

std::vector<trace::Sink*> Consumers::sinks() {
  std::vector<trace::Sink*> sinks;
  if (impl_->writer != nullptr) sinks.push_back(impl_->writer.get());
  sinks.push_back(&impl_->diagnoser);
  if (impl_->page != nullptr) sinks.push_back(impl_->page.get());
  return sinks;
}

std::string Consumers::page_url() const {
  return impl_->page == nullptr ? "" : impl_->page->url();
}

void Consumers::turn(int64_t now) {
  if (now - impl_->last_look < kBetweenLooks) return;
  impl_->last_look = now;
  impl_->look(now);
  if (now - impl_->last_flush < kBetweenFlushes) return;
  impl_->last_flush = now;
  if (impl_->page != nullptr) impl_->page->set_hints(impl_->diagnoser.hints());
  if (impl_->writer == nullptr) return;
  const Status status = impl_->writer->flush();
  if (!status.ok()) {
    CONVOY_LOG(Error) << status.to_string();
  }
}

Status Consumers::finish(int64_t now) {
  impl_->look(now);
  impl_->sum_up();
  if (impl_->writer == nullptr) return ok_status();
  CONVOY_RETURN_IF_ERROR(impl_->writer->close());
  if (impl_->arguments.report.empty()) return ok_status();
  CONVOY_RETURN_IF_ERROR(
      trace::write_report(impl_->arguments.run_file, impl_->arguments.report, {}));
  std::printf("report: %s\n", impl_->arguments.report.c_str());
  return ok_status();
}

}  // namespace convoy::cli
