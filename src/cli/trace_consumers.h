#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy::cli {

struct ConsumerArguments {
  std::string run_file;  // everything is kept there
  std::string report;    // written from it at the end
  int page = -1;         // port; 0: any; -1: no page
  std::string page_address = "127.0.0.1";
  std::string page_token_file;
  std::string alert_url;
  bool for_launcher = false;  // verdicts are printed for it, too: see print_for_launcher()
};
void add_consumers(CLI::App& app, ConsumerArguments& arguments);

// Who gets the events of a job, one behind the other: the stored file, the diagnosis with its
// verdicts on the terminal and to a webhook, the live page. All on the aggregator's thread.
class Consumers {
 public:
  static Result<std::unique_ptr<Consumers>> create(const ConsumerArguments& arguments);
  ~Consumers();

  trace::Registry& registry();
  std::vector<trace::Sink*> sinks();
  std::string page_url() const;  // "" if there is none
  // Some times a second, `now` on the root's clock.
  void turn(int64_t now);
  // At the end, when no more events come: the last look, all verdicts in short, the file is whole,
  // the report is written. `now` as in turn().
  Status finish(int64_t now);

 private:
  struct Impl;
  explicit Consumers(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::cli
