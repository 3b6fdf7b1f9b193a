// The `convoy` command: finds the subcommand, explains mistakes in one sentence with the nearest
// right word. What each subcommand does is in its own file.
#include "src/cli/commands.h"
#include <convoy/base/config.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace convoy::cli {
namespace {

// Options of `app`, spelt as on the command line, and its subcommands.
std::vector<std::string> known_words(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
    for (const std::string& name : option->get_snames()) words.push_back("-" + name);
  }
  for (const CLI::App* command : app.get_subcommands({})) words.push_back(command->get_name());
  return words;
}

// The innermost command that was named, and how it is spelt: "convoy data prepare".
std::pair<const CLI::App*, std::string> chosen_command(const CLI::App& root) {
  const CLI::App* app = &root;
  std::string name = "convoy";
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    name += " " + app->get_name();
  }
  return {app, name};
}

int explain_unknown(const CLI::App& root, const Invocation& invocation) {
  const auto [chosen, name] = chosen_command(root);
  const CLI::App& app = *chosen;
  const std::vector<std::string> left = root.remaining(true);
  const std::string word = left.empty() ? "" : left.front();
  const bool is_option = word.starts_with("-");
  std::string text = name + " knows no " +
                     (is_option                          ? "option "
                      : !app.get_subcommands({}).empty() ? "command "
                                                         : "argument ") +
                     "'" + word + "'.";
  const std::string near = nearest_name(word.substr(0, word.find('=')), known_words(app));
  if (!near.empty()) {
    text += " Did you mean " + near + "?";
  } else if (app.get_name() == "run" && !is_option && !invocation.has_program) {
    text += " The program to run stands behind `--`: convoy run -n 2 -- " + word;
  }
  text += " `" + name + " --help` lists what there is.";
  std::fprintf(stderr, "convoy: %s\n", text.c_str());
  return kExitUsage;
}

int run_main(int argc, char** argv) {
  CLI::App root{
      "Convoy: distributed training over tensor, pipeline, data and sequence parallel groups.",
      "convoy"};
  root.set_version_flag("--version", "convoy " CONVOY_VERSION);
  root.require_subcommand(1);
  root.footer("`convoy COMMAND --help` explains a command, with examples.");
  Invocation invocation;
  for (const AddCommand add : kCommands) add(root, invocation);

  // Everything behind the first `--` belongs to the program, whatever it looks like.
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto dashes = std::find(words.begin(), words.end(), "--");
  invocation.has_program = dashes != words.end();
  if (invocation.has_program) invocation.program.assign(dashes + 1, words.end());
  std::vector<std::string> own(words.begin(), dashes);
  std::reverse(own.begin(), own.end());  // CLI11 takes them from the back
  try {
    root.parse(own);
  } catch (const CLI::Success& shown) {  // --help, --version
    return root.exit(shown);
  } catch (const CLI::ExtrasError&) {
    return explain_unknown(root, invocation);
  } catch (const CLI::ParseError& error) {
    if (!root.remaining(true).empty()) return explain_unknown(root, invocation);
    const std::string name = chosen_command(root).second;
    std::fprintf(stderr, "convoy: %s. `%s --help` explains.\n", error.what(), name.c_str());
    return kExitUsage;
  }
  return invocation.exit_code;
}

}  // namespace

int fail(const Status& status) {
  std::fprintf(stderr, "convoy: %s\n", status.message().c_str());
  switch (status.code()) {
    case Code::kOk:
      return 0;
    case Code::kInvalidArgument:
      return kExitUsage;
    case Code::kDataLoss:
    case Code::kMismatch:
      return 65;
    case Code::kNotFound:
      return 66;
    case Code::kAlreadyExists:
    case Code::kUnavailable:
      return 69;
    default:
      return 70;
  }
}

}  // namespace convoy::cli

int main(int argc, char** argv) {
  return convoy::cli::run_main(argc, argv);
}
