// `convoy trace top`: a job in the terminal, again and again, or once.
#include "src/cli/http_get.h"
#include "src/cli/table.h"
#include "src/cli/trace_views.h"
#include <convoy/base/units.h>
#include <convoy/trace/replay.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <sys/ioctl.h>
#include <unistd.h>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kTimeout = std::chrono::seconds(5);
constexpr size_t kVerdictsShown = 5;
constexpr size_t kBarWidth = 40;

constexpr const char* kFooter = R"(Examples:
  convoy trace top http://127.0.0.1:8400
      a running job; its address is in the log of `convoy run` or of the aggregator
  convoy trace top run.trace --once
      a stored stream
  convoy trace top http://127.0.0.1:8400 --once
      for scripts; so is whatever is not a terminal

Ranks that others wait for come first; the bar is a mean step of the rank. Ctrl-C ends it.
Exit codes: 0; 64 bad option; 65 damaged stream; 66 no such file; 69 nobody answers.)";

struct Arguments {
  std::string source, token, every = "2s";
  bool once = false;
  size_t rows = 0;
};

struct View {
  Json overview, ranks;
};

// Columns and rows of the terminal; nothing where there is none.
winsize terminal() {
  winsize size{};
  if (::isatty(STDOUT_FILENO) == 0 || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return {};
  return size;
}

std::string time_text(double us) {
  char text[32];
  const char* const form = us < 1e3 ? "%.0f us" : us < 1e6 ? "%.1f ms" : "%.2f s";
  std::snprintf(text, sizeof text, form, us < 1e3 ? us : us < 1e6 ? us * 1e-3 : us * 1e-6);
  return text;
}

Result<View> fetch(const Arguments& arguments) {
  const auto get = [&](const char* path) -> Result<Json> {
    CONVOY_ASSIGN_OR_RETURN(const std::string text,
                            http_get(arguments.source, path, arguments.token, kTimeout));
    Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded()) {
      return Status(Code::kDataLoss, arguments.source + path + " is no JSON");
    }
    return json;
  };
  View view;
  CONVOY_ASSIGN_OR_RETURN(view.overview, get("/api/overview"));
  CONVOY_ASSIGN_OR_RETURN(view.ranks, get("/api/ranks"));
  return view;
}

Result<View> replayed(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<trace::Replay> replay,
                          trace::replay_stream(arguments.source));
  return View{Json::parse(replay->summary->overview()), Json::parse(replay->summary->ranks())};
}

void print_head(const Json& overview) {
  std::string mesh;
  for (const Json& d : overview["mesh"]) {
    if (d["size"] == 1) continue;
    mesh += (mesh.empty() ? ", " : " x ") + d["name"].get<std::string>() + " " +
            std::to_string(d["size"].get<int>());
  }
  std::printf("%s: %d ranks%s", printable(overview["job"].get<std::string>()).c_str(),
              overview["world_size"].get<int>(), printable(mesh).c_str());
  const Json& steps = overview["steps"];
  if (!steps["step"].empty()) {
    std::printf("  step %d  %s", steps["step"].back().get<int>(),
                time_text(steps["median_us"].back().get<double>()).c_str());
  }
  if (overview["tokens_per_s"] > 0) {
    std::printf("  %.4g tok/s", overview["tokens_per_s"].get<double>());
  }
  std::printf("\n");
  const Json& ranks = overview["ranks"];
  std::printf("%d ranks heard", ranks["heard"].get<int>());
  for (const char* life : {"running", "silent", "stopped", "blocked", "exited", "killed"}) {
    if (ranks[life] > 0) std::printf(", %s %d", life, ranks[life].get<int>());
  }
  const Json& recorded = overview["recorded"];
  std::printf("; records lost %llu\n", recorded["lost"].get<unsigned long long>() +
                                           recorded["shed"].get<unsigned long long>());
}

void print_verdicts(const Json& overview) {
  std::vector<const Json*> open;
  for (const Json& v : overview["verdicts"]) {
    if (v["cleared_us"] == 0) open.push_back(&v);
  }
  if (open.empty()) {
    std::printf("\nNothing is wrong (%zu verdicts are over).\n", overview["verdicts"].size());
    return;
  }
  std::printf("\n");
  const size_t shown = std::min(open.size(), kVerdictsShown);
  for (size_t i = 0; i < shown; ++i) {
    const Json& v = *open[open.size() - 1 - i];
    const double ago = overview["now_us"].get<double>() - v["onset_us"].get<double>();
    std::printf("! %s since %s, %.0f %% sure\n  %s\n", v["class"].get<std::string>().c_str(),
                time_text(ago).c_str(), v["confidence"].get<double>() * 100,
                printable(v["summary"].get<std::string>()).c_str());
    const std::string action = v["action"].get<std::string>();
    if (!action.empty()) std::printf("  Do: %s\n", printable(action).c_str());
  }
  if (open.size() > shown) std::printf("  and %zu more\n", open.size() - shown);
}

// A letter for each part, as wide as its share of `longest`.
std::string bar(const std::vector<double>& parts, const std::string& letters, double longest) {
  std::string text;
  double sum = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    sum += parts[i];
    const auto end = static_cast<size_t>(sum / longest * static_cast<double>(kBarWidth) + 0.5);
    while (text.size() < std::min(end, kBarWidth)) text += letters[i];
  }
  return text;
}

// The first letter that no part before has; for collectives the group's.
std::string letters_of(const Json& parts, size_t phases) {
  std::string letters;
  for (size_t i = 0; i < parts.size(); ++i) {
    char letter = '?';
    for (const char c : parts[i].get<std::string>()) {
      const auto cased = static_cast<char>(i < phases ? std::tolower(c) : std::toupper(c));
      if (std::isalpha(static_cast<unsigned char>(c)) == 0) continue;
      if (letters.find(cased) != std::string::npos) continue;
      letter = cased;
      break;
    }
    letters += letter;
  }
  return letters;
}

void print_ranks(const View& view, size_t rows) {
  const Json &ranks = view.ranks, &parts = ranks["parts"];
  const size_t count = ranks["step_us"].size();
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t r) {
    return std::pair(
        ranks["life"][r] == "running" || ranks["life"][r] == "unknown" ? 0 : 1,
        std::pair(ranks["late_us"][r].get<double>(), ranks["step_us"][r].get<double>()));
  });
  double longest = 1;
  for (const Json& us : ranks["step_us"]) longest = std::max(longest, us.get<double>());
  const std::string letters = letters_of(parts, view.overview["phases"].get<size_t>());
  std::printf("\n");
  Table table({">RANK", "HOST", "STATE", ">STEP", ">TIME", ">AWAITED", "A STEP"}, 1);
  std::vector<bool> used(parts.size(), false);
  for (size_t i = 0; i < std::min(rows, count); ++i) {
    const size_t r = order[i];
    std::vector<double> of(parts.size());
    for (size_t p = 0; p < of.size(); ++p) {
      of[p] = ranks["parts_us"][p][r].get<double>();
      used[p] = used[p] || of[p] > 0;
    }
    const int host = ranks["host"][r].get<int>();
    table.add(
        {std::to_string(r),
         host < 0 ? "?" : printable(ranks["hosts"][static_cast<size_t>(host)].get<std::string>()),
         ranks["life"][r].get<std::string>(), std::to_string(ranks["step"][r].get<int>()),
         time_text(ranks["step_us"][r].get<double>()), time_text(ranks["late_us"][r].get<double>()),
         bar(of, letters, longest)});
  }
  table.print();
  std::string legend;
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!used[p]) continue;
    legend += (legend.empty() ? "" : ", ") + std::string(1, letters[p]) + " " +
              parts[p].get<std::string>();
  }
  if (!legend.empty()) std::printf("%s\n", printable(legend).c_str());
}

void print(const View& view, size_t rows) {
  print_head(view.overview);
  print_verdicts(view.overview);
  print_ranks(view, rows);
}

volatile std::sig_atomic_t ends = 0;

Status follow(const Arguments& arguments, Nanos every) {
  struct sigaction action {};
  action.sa_handler = [](int) { ends = 1; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  Status status;
  std::printf("\x1b[?1049h\x1b[?25l");  // another screen, no cursor
  while (ends == 0) {
    const Result<View> view = fetch(arguments);
    if (!view.ok()) {
      status = view.status();
      break;
    }
    const winsize size = terminal();
    const size_t taken = 16 + kVerdictsShown * 3;
    const size_t rows = arguments.rows > 0        ? arguments.rows
                        : size.ws_row > taken + 4 ? size.ws_row - taken
                                                  : 4;
    std::printf("\x1b[H\x1b[J");
    print(*view, rows);
    std::fflush(stdout);
    Clock::system().sleep_for(every);
  }
  std::printf("\x1b[?25h\x1b[?1049l");
  return status;
}

Status top(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const Nanos every, parse_duration("--every", arguments.every));
  const bool is_file = arguments.source.find("://") == std::string::npos;
  const size_t rows = arguments.rows > 0 ? arguments.rows : 16;
  if (is_file) {
    CONVOY_ASSIGN_OR_RETURN(const View view, replayed(arguments));
    print(view, rows);
    return ok_status();
  }
  if (!arguments.once && ::isatty(STDOUT_FILENO) != 0) {
    return follow(arguments, std::max<Nanos>(every, std::chrono::milliseconds(200)));
  }
  CONVOY_ASSIGN_OR_RETURN(const View view, fetch(arguments));
  print(view, rows);
  return ok_status();
}

}  // namespace

void add_trace_top(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("top", "Watch a job: verdicts, and the slowest ranks");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("SOURCE", arguments->source,
                  "a running job's page (http://HOST:PORT), or a stream file")
      ->required();
  app->add_flag("--once", arguments->once, "print it once and end");
  app->add_option("--every", arguments->every, "between two looks; default: 2s")->type_name("TIME");
  app->add_option("--rows", arguments->rows, "ranks that are shown; default: as many as fit");
  app->add_option("--token", arguments->token, "of the page; default: CONVOY_TRACE_TOKEN");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const char* const token = std::getenv("CONVOY_TRACE_TOKEN");
    if (arguments->token.empty() && token != nullptr) arguments->token = token;
    const Status status = top(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
