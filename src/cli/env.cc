// `convoy env`: the launch contract, with the values seen here.
#include "src/cli/commands.h"
#include <convoy/launch/environment.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <unistd.h>

namespace convoy::cli {
namespace {

void print_markdown() {
  std::printf("| variable | meaning | default | legal values |\n| --- | --- | --- | --- |\n");
  for (const launch::Variable& v : launch::variables()) {
    std::printf("| `%s` | %s | %s | %s |\n", std::string(v.name).c_str(),
                std::string(v.meaning).c_str(), std::string(v.default_value).c_str(),
                std::string(v.legal).c_str());
  }
}

void print_table() {
  const launch::Getenv getenv = launch::process_getenv();
  for (const launch::Variable& v : launch::variables()) {
    const auto value = getenv(v.name);
    std::printf("%s%s%s\n    %s\n    default: %s; legal: %s\n", std::string(v.name).c_str(),
                value ? " = " : " is not set", value.value_or("").c_str(),
                std::string(v.meaning).c_str(), std::string(v.default_value).c_str(),
                std::string(v.legal).c_str());
  }
}

int show(bool markdown) {
  if (markdown) {
    print_markdown();
    return 0;
  }
  print_table();
  for (const std::string& text : launch::unknown_variables(environ)) {
    std::printf("\nwarning: %s\n", text.c_str());
  }
  const Result<launch::Environment> environment = launch::read_environment();
  if (!environment.ok()) return fail(environment.status());
  std::printf("\nA program started here would be %s\n",
              launch::describe(environment.value()).c_str());
  return 0;
}

}  // namespace

void add_env(CLI::App& root, Invocation& invocation) {
  CLI::App* app =
      root.add_subcommand("env", "Show the variables that ranks read, and what they are here");
  const auto markdown = std::make_shared<bool>(false);  // shared by the flag and the callback
  app->add_flag("--markdown", *markdown, "the table of docs/launch.md");
  app->footer("`convoy run -n 2 -- convoy env` shows what a rank finds.");
  app->callback([&invocation, markdown] { invocation.exit_code = show(*markdown); });
}

}  // namespace convoy::cli
