// `convoy trace query`: SQL over a trace. DuckDB is a Python package, so Python runs it.
#include "trace_query.h"

#include "src/cli/trace_stream.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <spawn.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

extern char** environ;

namespace convoy::cli {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string from;
  std::string sql;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy trace query tables
      what tables and columns there are
  convoy trace query tables "SELECT name, sum(duration_ns) / 1e9 AS s FROM spans GROUP BY 1 ORDER BY 2 DESC"
  convoy trace query run.trace --json "SELECT operation, bytes, median(duration_ns) FROM operations GROUP BY ALL"

Tables: operations, spans, counters, ranks, verdicts, steps (docs/trace_export.md); times are ns on one clock.
A stream file is exported into a temporary folder first: export it once with --parquet to ask often.
Needs a Python with DuckDB (pip install duckdb): CONVOY_PYTHON, or else python3.
Exit codes: 0; 64 bad option or query; 65 the file is damaged; 66 no such file; 69 no Python with DuckDB.)";

// An empty folder that goes with what is in it.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> make() {
    std::error_code error;
    const fs::path where = fs::temp_directory_path(error);
    if (error) return errno_status("no folder for temporary files", error.value());
    std::string path = (where / "convoy-query-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) return errno_status("cannot make " + path, errno);
    return TemporaryFolder(path);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::move(other.path_)) {
    other.path_.clear();
  }
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

Result<int> run_python(const fs::path& folder, const Arguments& arguments) {
  const char* const named = std::getenv("CONVOY_PYTHON");
  const std::string python = named != nullptr && *named != '\0' ? named : "python3";
  const std::string words[] = {python,          "-c",          kQueryProgram,
                               folder.string(), arguments.sql, arguments.json ? "json" : "table"};
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, python.c_str(), nullptr, nullptr, argv.data(), environ);
  if (error != 0) {
    return Status(Code::kUnavailable,
                  "queries need Python with DuckDB, and '" + python + "' does not start (" +
                      std::generic_category().message(error) +
                      "): install python3 and `pip install duckdb`, or set CONVOY_PYTHON");
  }
  int state = 0;
  while (::waitpid(pid, &state, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

Result<int> query(const Arguments& arguments) {
  std::error_code error;
  if (fs::is_directory(arguments.from, error)) {
    if (fs::exists(fs::path(arguments.from) / "operations.parquet", error)) {
      return run_python(arguments.from, arguments);
    }
    return Status(Code::kNotFound, arguments.from +
                                       " holds no tables: `convoy trace export FILE --parquet " +
                                       arguments.from + "` makes them");
  }
  CONVOY_ASSIGN_OR_RETURN(const auto stream, survey_stream(arguments.from, {}));
  CONVOY_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::make());
  CONVOY_ASSIGN_OR_RETURN(const auto exporter,
                          trace::create_parquet(folder.path(), stream->registry, *stream->survey));
  CONVOY_RETURN_IF_ERROR(export_stream(*stream, *exporter));
  return run_python(folder.path(), arguments);
}

}  // namespace

void add_trace_query(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("query", "Ask a stored stream or its tables in SQL");
  const auto a = std::make_shared<Arguments>();
  app->add_option("FROM", a->from, "a stream file, or a folder of --parquet")->required();
  app->add_option("SQL", a->sql, "a query of DuckDB; without one: lists tables and columns");
  app->add_flag("--json", a->json, "print columns and rows as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, a] {
    const Result<int> code = query(*a);
    invocation.exit_code = code.ok() ? *code : fail(code.status());
  });
}

}  // namespace convoy::cli
