// `convoy data`: text to token files, and what a token file holds.
#include "src/cli/commands.h"
#include "src/cli/progress.h"
#include <convoy/dataset/prepare.h>
#include <convoy/dataset/tokenizer.h>

#include <nlohmann/json.hpp>

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

namespace convoy::cli {
namespace {

struct PrepareArguments {
  dataset::PrepareOptions options;
  std::string split;
  bool json = false;
};

struct ShowArguments {
  std::string path;
  bool verify = false;
  bool json = false;
};

constexpr const char* kPrepareFooter = R"(Examples:
  convoy data prepare corpus.txt -o corpus.tokens
  convoy data prepare a.txt b.txt -o run/corpus --split train=0.95,validation=0.05
      writes run/corpus.train.tokens and run/corpus.validation.tokens; parts are consecutive in the
      text and are cut after a line

Each input file is one document. Token files appear only when they are complete.
Exit codes: 0; 64 bad option or input; 65 an input changed while it was read; 66 no such file.)";

constexpr const char* kShowFooter = R"(Examples:
  convoy data show corpus.tokens
  convoy data show corpus.tokens --verify --json

Exit codes: 0; 64 not a token file, or of another version; 65 damaged; 66 no such file.)";

nlohmann::ordered_json to_json(const std::string& path, const dataset::TokenFileInfo& info) {
  char checksum[17];
  std::snprintf(checksum, sizeof(checksum), "%016" PRIx64, info.payload_checksum);
  return {{"path", path},
          {"tokens", info.tokens},
          {"documents", info.documents},
          {"tokenizer", info.tokenizer},
          {"vocabulary_size", info.vocabulary_size},
          {"token_bytes", info.token_bytes},
          {"xxh3", checksum}};
}

void print_line(const std::string& path, const dataset::TokenFileInfo& info) {
  std::printf("%s: %" PRIu64 " tokens of %u byte(s), %" PRIu64
              " document(s), tokenizer %s, vocabulary %" PRIu64 "\n",
              path.c_str(), info.tokens, info.token_bytes, info.documents, info.tokenizer.c_str(),
              info.vocabulary_size);
}

Status prepare(const PrepareArguments& arguments) {
  dataset::PrepareOptions options = arguments.options;
  CONVOY_ASSIGN_OR_RETURN(options.split, dataset::parse_split(arguments.split));
  Progress progress("prepared");
  const auto files =
      dataset::prepare(options, [&](uint64_t done, uint64_t total) { progress.show(done, total); });
  progress.end();
  if (!files.ok()) return files.status();
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const dataset::PreparedFile& file : *files) {
    nlohmann::ordered_json one = to_json(file.path, file.info);
    one["part"] = file.part;
    list.push_back(std::move(one));
    if (!arguments.json) print_line(file.path, file.info);
  }
  if (arguments.json) std::printf("%s\n", nlohmann::ordered_json{{"files", list}}.dump().c_str());
  return ok_status();
}

Status show(const ShowArguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const dataset::TokenFile file, dataset::TokenFile::open(arguments.path));
  if (arguments.verify) CONVOY_RETURN_IF_ERROR(file.verify());
  if (arguments.json) {
    nlohmann::ordered_json json = to_json(file.path(), file.info());
    json["verified"] = arguments.verify;
    std::printf("%s\n", json.dump().c_str());
  } else {
    print_line(file.path(), file.info());
    if (arguments.verify) std::printf("checksum, tokens and documents are right\n");
  }
  return ok_status();
}

void add_prepare(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("prepare", "Make token files from text files");
  const auto arguments = std::make_shared<PrepareArguments>();
  std::string known;
  for (const std::string& name : dataset::tokenizer_names()) {
    known += (known.empty() ? "" : ", ") + name;
  }
  app->add_option("FILES", arguments->options.inputs, "text files, in this order")->required();
  app->add_option("-o,--output", arguments->options.output,
                  "the token file; with --split OUT.PART.tokens for each part")
      ->required();
  app->add_option("--tokenizer", arguments->options.tokenizer, "one of: " + known)
      ->capture_default_str();
  app->add_option("--split", arguments->split, "parts and shares: train=0.95,validation=0.05");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kPrepareFooter);
  app->callback([&invocation, arguments] {
    const Status status = prepare(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

void add_show(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("show", "Say what a token file holds");
  const auto arguments = std::make_shared<ShowArguments>();
  app->add_option("FILE", arguments->path, "a token file")->required();
  app->add_flag("--verify", arguments->verify, "read all of it and check it");
  app->add_flag("--json", arguments->json, "print it as one line of JSON");
  app->footer(kShowFooter);
  app->callback([&invocation, arguments] {
    const Status status = show(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace

void add_data(CLI::App& root, Invocation& invocation) {
  CLI::App* group = root.add_subcommand("data", "Make and look at token files");
  group->require_subcommand(1);
  add_prepare(*group, invocation);
  add_show(*group, invocation);
}

}  // namespace convoy::cli
