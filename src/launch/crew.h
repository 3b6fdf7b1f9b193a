#pragma once

#include "src/launch/child_lines.h"
#include "src/launch/node_check.h"
#include "src/launch/output.h"
#include "src/launch/process.h"
#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/base/vitals.h>
#include <convoy/launch/launcher.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace convoy::launch {

// This machine's workers as the job's supervisor sees them: listens to workers that want to be led
// from one generation into the next (resilience::Member), starts the supervisor when the first one
// comes, again if it dies, and hands on what they say to each other. On the machines but the first
// a relay stands for the supervisor, which is on the first. Called by the loop's thread.
class Crew {
 public:
  struct Options {
    std::string program;  // `convoy`
    std::vector<std::string> environment;
    std::string job;
    bool has_common_id = true;  // all machines know the job by that name
    std::string run_dir;
    std::string mesh;
    std::string address;  // where other workers reach a store that one of this machine serves
    int ranks = 1;        // on this machine
    int spares = 0;
    int min_dp = 1;
    int nodes = 1, node = 0;
    uint64_t generation = 0;  // that the ranks start in
    uint64_t launcher = 0;    // of several machines: another number than its predecessor's here
    uint16_t port = 0;        // of several machines: the supervisor's, on `leader`
    std::string leader;
    std::string webhook, metrics;  // see SuperviseOptions
    std::string etcd;              // any machine may lead; see SuperviseOptions
    Protection protection;
    // The newest step that is saved, by ckpt::Tier, as far as this machine's agent knows.
    std::function<std::array<int64_t, 4>()> tiers;
  };
  // What the supervisor wants of the launcher.
  struct Orders {
    std::function<void(int rank)> spawn;  // rank -1: a spare
    std::function<void(uint64_t worker)> kill;
    std::function<void(uint64_t worker, int rank)> place;
    std::function<void()> renumber;  // all ranks are placed anew, or are none any more
    std::function<void(int code, int cause, const std::string& why)> end;
  };
  static Result<std::unique_ptr<Crew>> create(Options options, Orders orders, EventLoop& loop,
                                              Terminal& terminal);
  ~Crew();

  // "SOCKET#WORKER", for CONVOY_CONTROL.
  std::string control(uint64_t worker) const { return name_ + "#" + std::to_string(worker); }
  pid_t pid() const { return child_ ? child_->pid : 0; }
  // The supervisor's process, or one that checks this machine.
  bool owns(pid_t pid) const {
    return pid == this->pid() || (check_ != nullptr && check_->pid() == pid);
  }
  // Whether workers have come, on all machines, so that the supervisor decides what becomes of the
  // job.
  bool leads() const { return options_.nodes > 1 ? is_whole_ : line_ || was_started_; }
  bool has_joined(uint64_t worker) const;
  void started(uint64_t worker, int rank, pid_t pid);
  void ended(uint64_t worker, int wait_status);
  // This machine's ranks end, and not because the supervisor said so: other machines are told.
  void leave(int code, const std::string& why);
  // The tracer has found something.
  void verdict(const resilience::proto::Verdict& found);
  // The supervisor is not needed any more: nothing is replaced from here on.
  void let_go();
  // Blocks until the supervisor has ended, which takes milliseconds, or a few seconds if a webhook
  // does not answer.
  void close();

 private:
  // A worker's process, or an operator's program.
  struct Peer {
    UniqueFd socket;
    uint64_t worker = 0;  // 0: has not said hello
    uint64_t request = 0;
  };
  struct Worker {
    int rank = -1;
    pid_t pid = 0;
    bool has_joined = false;
    int socket = -1;                 // of its Peer
    const Vitals* vitals = nullptr;  // mapped
  };

  Crew(Options options, Orders orders, EventLoop& loop, Terminal& terminal);
  Status listen();
  std::string socket_file() const;  // in control/
  void on_connect();
  void on_packet(int socket);
  void drop(int socket);
  void hello(Peer& peer, const resilience::proto::Hello& hello, const UniqueFd& page);
  Status start_supervisor();
  std::vector<std::string> supervisor_words(int line) const;
  void say_hello();
  void look_for_leader();
  bool is_first() const { return options_.node == 0; }
  // Which machine leads is found out each time.
  bool is_contested() const { return !options_.etcd.empty(); }
  bool is_leader() const { return is_first() && !is_contested(); }
  void on_supervisor_exit();
  void on_order();
  void carry_out(const resilience::proto::ToNode& order);
  void forget_ranks();
  void check_node();
  void on_timer();
  void tell_vitals();
  void end_supervisor(const std::string& why);
  void to_supervisor(const resilience::proto::FromNode& message);

  const Options options_;
  const Orders orders_;
  EventLoop& loop_;
  Terminal& terminal_;
  const std::string name_;
  UniqueFd listener_;
  std::map<int, Peer> peers_;  // by socket
  std::map<uint64_t, Worker> workers_;
  std::map<uint64_t, int> requests_;  // operators' sockets
  uint64_t next_request_ = 1;
  uint64_t generation_;
  std::set<int> done_;     // ranks that have ended with success here
  bool is_whole_ = false;  // the supervisor has seen all machines
  bool is_led_ = false;    // it can be reached
  bool absence_is_told_ = false;
  TimePoint away_at_{};  // since when it can't be
  std::string away_;     // and why
  UniqueFd line_;        // to the supervisor
  std::optional<Child> child_;
  std::optional<ChildLines> lines_;
  std::unique_ptr<NodeCheck> check_;  // under way
  std::optional<EventLoop::TimerId> timer_;
  bool was_started_ = false, closing_ = false;
  TimePoint started_at_{};
  TimePoint heard_at_{};  // of the supervisor
  int early_deaths_ = 0;
};

}  // namespace convoy::launch
