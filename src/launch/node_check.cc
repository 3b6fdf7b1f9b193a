#include "src/launch/node_check.h"

#include <nlohmann/json.hpp>

#include <csignal>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <utility>

namespace convoy::launch {
namespace {

constexpr int kTold = 3;  // failures

// The checks that failed, of a report as `convoy doctor --json` prints it.
std::string failures(const std::string& report) {
  const auto json = nlohmann::json::parse(report, nullptr, /*allow_exceptions=*/false);
  std::string text;
  int told = 0;
  try {
    for (const auto& check : json.at("checks")) {
      if (check.at("verdict") != "fail" || told++ >= kTold) continue;
      text += (text.empty() ? "" : "; ") + check.at("name").get<std::string>() + ": " +
              check.at("found").get<std::string>();
    }
  } catch (const nlohmann::json::exception&) {
  }
  return text.empty() ? "convoy doctor gives no report" : text;
}

}  // namespace

Result<std::unique_ptr<NodeCheck>> NodeCheck::start(const std::string& program,
                                                    const std::vector<std::string>& environment,
                                                    const std::string& folder, EventLoop& loop,
                                                    Done done) {
  const std::vector<std::string> words{program,  "doctor", "--quick", "--json",
                                       "--disk", folder,   "--node",  "this"};
  CONVOY_ASSIGN_OR_RETURN(Child child, spawn(program, words, environment));
  std::unique_ptr<NodeCheck> check(new NodeCheck(loop, std::move(child), std::move(done)));
  CONVOY_RETURN_IF_ERROR(check->watch());
  return check;
}

NodeCheck::NodeCheck(EventLoop& loop, Child child, Done done)
    : loop_(loop), child_(std::move(child)), done_(std::move(done)) {}

NodeCheck::~NodeCheck() {
  if (child_.pid <= 0) return;
  loop_.unwatch(child_.pidfd.get());
  ::kill(child_.pid, SIGKILL);
  ::waitpid(child_.pid, nullptr, 0);
}

Status NodeCheck::watch() {
  lines_.emplace(loop_, child_, [this](std::string_view line, bool is_error) {
    if (!is_error) report_ = line;
  });
  CONVOY_RETURN_IF_ERROR(lines_->watch());
  return loop_.watch(child_.pidfd.get(), EPOLLIN, [this](uint32_t) { on_exit(); });
}

void NodeCheck::on_exit() {
  int wait_status = 0;
  if (::waitpid(child_.pid, &wait_status, WNOHANG) != child_.pid) return;
  loop_.unwatch(child_.pidfd.get());
  child_.pid = -1;
  lines_->finish();
  const bool is_fit = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
  const Done done = std::move(done_);
  done(is_fit, is_fit ? "" : failures(report_));  // this may be gone afterwards
}

}  // namespace convoy::launch
