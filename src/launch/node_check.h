#pragma once

#include "src/launch/child_lines.h"
#include "src/launch/process.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/status.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace convoy::launch {

// `convoy doctor --quick` of this machine, as a child beside the ranks. One thread. The loop
// outlives it; the child does not.
class NodeCheck {
 public:
  // `text`: what is wrong, for people. Called once, by the loop; may destroy the check.
  using Done = std::function<void(bool is_fit, const std::string& text)>;
  static Result<std::unique_ptr<NodeCheck>> start(const std::string& program,
                                                  const std::vector<std::string>& environment,
                                                  const std::string& folder, EventLoop& loop,
                                                  Done done);
  ~NodeCheck();
  pid_t pid() const { return child_.pid; }

 private:
  NodeCheck(EventLoop& loop, Child child, Done done);
  Status watch();
  void on_exit();

  EventLoop& loop_;
  Child child_;
  Done done_;
  std::string report_;
  std::optional<ChildLines> lines_;
};

}  // namespace convoy::launch
