#pragma once

#include "src/launch/agent.h"
#include "src/launch/crew.h"
#include "src/launch/output.h"
#include "src/launch/plan.h"
#include "src/launch/process.h"
#include "src/launch/report.h"
#include "src/launch/tracer.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace convoy::launch {

// The ranks of one machine while they run. One thread, one event loop; use once.
class Job {
 public:
  Job(const Plan& plan, AgentLine& agent_line);
  // Starts the ranks, serves them until all have ended, and returns the exit code.
  Result<int> run(const UniqueFd& lifeline);

 private:
  // A process that has, had or may get a rank.
  struct Rank {
    uint64_t worker;
    int rank;  // kNoRank: a spare
    Child child;
    RankLog log;
    LineSplitter out;
    LineSplitter err;
    std::optional<RankExit> exit;
    bool halted = false;       // see RankExit::was_halted
    bool is_replaced = false;  // the job goes on without it
    std::string reports{};     // see RankExit::reports
  };

  Status start();
  Status listen_for_agent();
  Status lead_crew();
  std::string reports_of(int rank, uint64_t worker) const;
  // Where the first machine's supervisor takes the others' launchers. False: it can't, which is
  // said.
  bool can_lead_others(uint16_t port);
  std::vector<std::string> rank_environment(int rank, uint64_t worker, bool standby) const;
  // Starts a process for the rank (kNoRank: a spare); `standby`: a generation that goes on waits
  // for it.
  Status start_rank(int rank, bool standby);
  Status watch(Rank& rank);
  // What the supervisor orders.
  void respawn(int rank);
  void kill_worker(uint64_t worker);
  void forget_ranks();
  void place_worker(uint64_t worker, int rank);
  void end_job(int code, int cause, const std::string& why);
  Status watch_signals();
  void on_output(Rank& rank, bool is_error);
  bool read_output(Rank& rank, bool is_error);
  void on_exit(Rank& rank);
  bool is_survived(const Rank& rank);
  bool has_ended() const;
  std::vector<RankExit> last_exits() const;
  int next_signal();
  void on_signal(int signal);
  // Asks the ranks that still run to end, and kills them after `grace`.
  void end_ranks(int signal, Nanos grace);
  void signal_ranks(int signal);
  void note_halted();
  void finish_output(Rank& rank);
  int report();
  void on_agent_exit(const AgentExit& exit);
  // Waits until what ranks saved is written, and tells how far it is.
  void drain_agent(int* code);
  bool wants_to_give_up();
  // Waits until the trace's files are written.
  void finish_trace();
  // Tells what the ranks' reports say; the job's exit code becomes kExitFindings if that is all.
  void report_rehearsal(int* code);

  const Plan& plan_;
  AgentLine& agent_line_;
  std::unique_ptr<EventLoop> loop_;
  Terminal terminal_;
  UniqueFd signals_;
  std::unique_ptr<Agent> agent_;              // null: none
  std::unique_ptr<Tracer> tracer_;            // null: none
  std::unique_ptr<Crew> crew_;                // null: a death ends the job
  std::vector<std::unique_ptr<Rank>> ranks_;  // all that were started
  size_t running_ = 0;
  uint64_t first_worker_ = 0;      // a launcher that comes back uses no number of its predecessor's
  const Rank* cause_ = nullptr;    // the first that died on its own, and that the job dies of
  std::optional<int> verdict_;     // the supervisor's exit code
  std::optional<int> stopped_by_;  // the signal that the user sent
  int signals_from_guardian_ = 0;
  int signals_from_others_ = 0;
  bool ending_ = false;
  bool all_had_come_ = false;  // at one time, all ranks had opened their line
  bool draining_ = false;
  bool give_up_ = false;
  bool guardian_died_ = false;
  TimePoint started_at_;
};

}  // namespace convoy::launch
