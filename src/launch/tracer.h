#pragma once

#include "src/launch/child_lines.h"
#include "src/launch/output.h"
#include "src/launch/plan.h"
#include "src/launch/process.h"
#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace convoy::launch {

// Who brings together what ranks record: a child beside them, `convoy trace serve` on the job's
// first machine, `convoy trace collect` on the others. What it says is shown and kept in
// logs/trace_N.log. It never fails or holds up the job: what goes wrong is one line. Called by the
// loop's thread.
class Tracer {
 public:
  // Blocks until it is ready, since ranks may be over soon, but not for long. null: it can't be
  // started, which has been said. Loop and terminal outlive it.
  // `found` is told of its verdicts that may be a reason to do something.
  using Found = std::function<void(const resilience::proto::Verdict& verdict)>;
  static std::unique_ptr<Tracer> start(const Plan& plan, EventLoop& loop, Terminal& terminal,
                                       Found found);
  ~Tracer();

  pid_t pid() const { return child_ ? child_->pid : 0; }
  // A rank has been started; one has ended.
  void watch(pid_t rank) { tell("watch " + std::to_string(rank)); }
  void ended(pid_t rank, int wait_status);
  // The user ends the job; from here on nothing is traced, since its end is nobody's fault.
  void job_is_stopped();
  // All ranks have ended: it writes what there is, while the launcher may do other things.
  void job_has_ended() { line_.reset(); }
  // Blocks until it has ended. Asks `gives_up` some times a second.
  void finish(const std::function<bool()>& gives_up);

 private:
  Tracer(EventLoop& loop, Terminal& terminal, Found found)
      : loop_(loop), terminal_(terminal), found_(std::move(found)) {}
  Status spawn_it(const Plan& plan);
  void await_ready();
  void tell(const std::string& line);
  void take(std::string_view line, bool is_error);
  void on_exit();

  EventLoop& loop_;
  Terminal& terminal_;
  const Found found_;
  std::optional<RankLog> log_;
  std::optional<Child> child_;
  std::optional<ChildLines> lines_;  // of child_
  bool is_ready_ = false;            // it has said something
  UniqueFd line_;                    // to it; its end is the job's
  std::string complaint_;            // the last of it, which tells why it ends
};

}  // namespace convoy::launch
