#pragma once

#include "src/resilience/incident/incident.h"
#include "src/resilience/protocol/messages.pb.h"
#include "src/resilience/supervisor/control_store.h"
#include "src/resilience/supervisor/heartbeats.h"
#include "src/resilience/supervisor/layout.h"
#include "src/resilience/supervisor/watch.h"
#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/mesh/mesh.h>
#include <convoy/resilience/policy.h>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace convoy::resilience {

// One a job: hears of faults, lets the policy decide, and leads the job's workers into the next
// generation. Events in, orders out; one thread; waits for nothing.
//
// A generation begins in two rounds. Its members are summoned, with their ranks; each leaves its
// groups and says that it is ready. When all have, they may go: groups are made, state is brought,
// a step is done. A fault on the way there begins the next generation.
class Supervisor {
 public:
  struct Options {
    std::string job;
    std::string run_dir;
    std::string mesh;  // may be empty: all ranks dp
    int ranks = 1;     // of the job
    int nodes = 1;
    int home = 0;               // the node that it runs on
    bool is_contested = false;  // any other node's supervisor can go on where this one ends
    int spares = 0;             // on each node
    int min_dp = 1;  // while machines are missing, it goes on with as few data-parallel replicas
    double unix_time = 0;  // at present; 0: the system's
    // Told of each incident, each that is survived, and the job's end, as JSON (docs/recovery.md).
    std::function<void(const std::string& json)> notify{};
  };
  // Gives an order to a node.
  using Send = std::function<void(int node, const proto::ToNode& order)>;

  // kInvalidArgument: the mesh; kDataLoss: the control state of a supervisor before.
  // `store`: of the control state; null: a file of the run folder.
  static Result<Supervisor> create(Options options, const Clock& clock, Send send,
                                   std::unique_ptr<ControlStore> store = nullptr);

  void take(int node, const proto::FromNode& message);
  // The line to a node has ended. It is lost if it does not come back soon.
  void node_gone(int node, const std::string& why);
  // Some times a second: deadlines.
  void tick();
  // All have been told to end.
  bool is_over() const { return phase_ == Phase::kOver; }
  // As Prometheus reads them.
  std::string metrics() const;

 private:
  enum class Phase : uint8_t {
    kSteady,
    kGathering,  // members are summoned
    kStarting,   // they may go; a first step is to come
    kOver,
  };
  struct Worker {
    uint64_t id = 0;
    int node = 0;
    int rank = kNone;  // a spare
    int64_t pid = 0;
    bool has_joined = false;                    // and listens
    bool is_new = false;                        // of this generation: has not trained yet
    bool is_ready = false, is_running = false;  // of this generation
    bool is_condemned = false;                  // it is ended by us
    RankVitals vitals{};
    TimePoint stepped_at{};  // it was seen to do a step
    std::string last_words{};
  };

  Supervisor(Options options, const Clock& clock, Send send, const Mesh& mesh,
             std::unique_ptr<ControlStore> store, ControlState state);

  // What the tracer has found.
  struct Suspicion {
    FaultKind kind = FaultKind::kHang;
    std::vector<int> ranks{};
    std::string text{};
    TimePoint since{};  // it has been so
    double cost = 0;    // of the step time
  };

  struct Presence {
    Heartbeats beats;
    std::string why{};  // its line has ended
  };

  // Events.
  void node_said(int node, const proto::NodeHello& hello);
  void was_started(int node, const proto::Started& told);
  void started(int node, const proto::Worker& started);
  void ended(const proto::Ended& ended);
  void worker_said(Worker& worker, const proto::FromWorker& message);
  void ready(Worker& worker, const proto::Ready& ready);
  void running(Worker& worker, const proto::Running& running);
  void trouble(Worker& worker, const proto::Trouble& trouble);
  void corruption(const proto::Trouble& trouble);
  void vitals(int node, const proto::Vitals& told);
  void leaving(int node, const proto::Leaving& leaving);
  void request(int node, const proto::Request& request);
  bool is_another_round(const Worker& worker);
  void spare_ended(const Worker& worker);

  // The tracer's, in verdicts.cc.
  void verdict(const proto::Verdict& told);
  bool look_at_suspicion();
  bool is_stuck(const Suspicion& s) const;
  bool is_certain(const Suspicion& s) const;
  std::vector<int> halted() const;
  void slow(const Suspicion& s);
  bool has_state_without(const std::vector<Move>& moves) const;
  void note(const std::string& text);

  // Nodes, in nodes.cc.
  void reconcile(int node, const proto::NodeHello& hello);
  bool is_another_launcher(int node, const proto::NodeHello& hello) const;
  void drop_doubles();
  void take_in(int node, const proto::NodeHello& hello);
  void look_at_all(int come = kNone, const std::string& why = "");
  void look_for_lost_nodes();
  Nanos comes_back(int node) const;
  void lose(const std::vector<int>& nodes, const std::string& what);
  void say_who_is_missing();
  bool is_lost(int node) const;
  bool is_there(int node) const;
  // All nodes that are not lost are there: whoever is missing then has died.
  bool is_complete() const;
  bool is_any_silent() const;
  std::vector<int> ranks_on(int node) const;
  std::vector<int> spares_by_node() const;
  int spares() const;
  Node node_for_policy(int node, bool is_home, int spares) const;
  std::string node_name(int node) const;
  std::string place_of(int node) const;  // " on NAME", if there are several
  void broadcast(const proto::ToNode& order);
  void refill_spares();
  void finish();

  // A machine is to be freed, in drain.cc.
  Status drain(const std::string& name);
  bool has_only_copies(int node) const;
  Status may_drain(int node, const std::string& name) const;
  int node_named(const std::string& name) const;
  bool is_draining(int node) const;
  void look_for_drains();
  void move_away(int node, const std::vector<int>& ranks);
  void release(int node);

  // see → decide → act.
  void open_incident(const char* kind, const std::vector<int>& ranks, const std::string& what);
  // `node`: where a process was that is not in the books any more. `is_overtaken`: the recovery
  // that goes on would have brought a step but for this.
  void fault(FaultKind kind, const std::vector<int>& ranks, const std::string& what,
             int node = kNone, bool is_overtaken = false);
  // `homes`: where blocks are that lost only some of their ranks.
  Job job(const std::set<int>& homes) const;
  void carry_out(const Plan& plan, const std::vector<int>& lost);
  void take_places(const std::vector<Move>& moves);
  void tell_places(bool is_resized);
  // `is_resized`: ranks have other numbers, which launchers don't know yet.
  void begin_generation(const std::vector<int>& lost, bool is_resized);
  void restart_all();

  // More or fewer replicas, in resize.cc.
  std::vector<Move> shrink(const Plan& plan);
  void grow(const std::vector<Move>& moves);
  void renumber(const Layout& next, const std::map<int, int>& replica_of_block);
  void look_for_growth();
  // In hold.cc.
  bool holds(bool durably);
  bool is_holding() const;
  void let_go_of_hold();
  // In quarantine.cc.
  void quarantine(const std::vector<int>& nodes);
  void look_for_checks();
  void checked(int node, const proto::Checked& checked);
  // In reshape.cc.
  bool has_own_mesh() const { return layout_.mesh() == own_mesh_; }
  std::vector<int> room() const;
  std::optional<Mesh> other_mesh() const;
  bool can_reshape() const;
  void rather_reshape(Plan& plan, const char* why) const;
  void reshape(const Mesh& mesh);
  void look_for_larger_mesh();
  void ask_for_spares(int node, int count);
  bool have_processes(const std::vector<Move>& moves);
  void take_back(int node, const proto::NodeHello& hello);

  void give_rank(int rank, int node);
  void summon(const Worker& worker);
  void go();
  void survived();
  void close_incident();
  void stop(int code, int cause, const std::string& why);
  void look_for_hang();
  void look_for_late();
  std::set<uint64_t> blame(const std::vector<int>& ranks);
  void kill(int node, uint64_t worker);
  void condemn(Worker& worker);

  // Books.
  Worker* find(uint64_t id);
  const Worker* of_rank(int rank) const;
  Worker* of_rank(int rank);
  std::vector<Worker*> members();
  std::vector<int> missing(bool Worker::*flag);
  void await_all();
  bool is_last(const Worker& worker, bool Worker::*flag);
  void look_at_vitals();
  int ranks_per_node() const { return options_.ranks / options_.nodes; }
  int64_t newest_step() const;
  void event(const std::string& text);
  void say(const std::string& text);
  void save();
  std::string status() const;
  double since(TimePoint begin) const;

  // Where time goes and who is told, in account.cc.
  void enter(Account::Part part, double at);
  void keep_account();
  double unseen_s() const;
  double unix_now() const;
  double elapsed_s() const;
  double spent_s(Account::Part part) const;
  double goodput() const;
  void notify(const char* event);
  void notify_end(int code, const std::string& reason);

  int64_t newest_in(size_t tier) const;
  // In metrics.cc.
  std::map<std::string, int> rank_states() const;
  std::map<std::string, int> node_states() const;
  const char* node_state(int node) const;

  Options options_;
  const Clock* clock_;
  Send send_;
  Mesh own_mesh_;  // that the job was started with
  Layout layout_;
  std::vector<int> place_;  // the node of each rank, of those too that are still to come
  std::unique_ptr<ControlStore> store_;
  ControlState state_;
  std::map<int, proto::NodeHello> nodes_;  // by node
  std::map<int, Presence> presence_;       // of all nodes but home, whose end is ours
  TimePoint created_at_{}, ticked_at_{};
  double unix_at_first_ = 0;                     // when it was created
  std::map<int, std::array<int64_t, 4>> tiers_;  // newest step that is saved, by node and tier
  std::optional<TimePoint> hold_asked_at_;       // of this generation
  bool is_held_ = false;                         // it has saved, and waits for the next one
  std::map<int, int> new_deaths_;  // of the incident, by rank: processes that had just been started
  std::map<int, TimePoint> check_at_;  // of quarantined nodes
  std::map<int, std::string> unfit_;   // what the last check found
  int led_before_ = kNone;             // node whose supervisor has lost the lead to this one
  Nanos latest_tick_{};                // how far a tick came behind the one before, at most
  bool missing_is_told_ = false;
  std::set<int> done_;                  // ranks that have ended with success
  std::string held_;                    // what can't be judged before all nodes are there
  std::optional<proto::End> end_;       // of the job
  std::map<uint64_t, Worker> workers_;  // by id
  // Who had each rank when it was last asked for; of_rank() looks whether that still holds.
  mutable std::vector<uint64_t> id_of_rank_;
  std::set<int> awaited_;  // ranks that have not said that they are ready, or running
  bool has_new_vitals_ = false;
  Phase phase_ = Phase::kSteady;
  HangWatch watch_;
  std::optional<IncidentRecord> incident_;
  TimePoint seen_at_{};    // the incident's first fault
  TimePoint steady_at_{};  // the generation had its first step
  std::optional<Suspicion> suspicion_;
  std::map<std::vector<int>, TimePoint> slow_told_;
  std::deque<Event> notes_;  // what is no incident; at: unix time
  bool end_is_told_ = false;
  TimePoint summoned_at_{}, gone_at_{};
  bool all_new_ = false;  // nobody of the generation before is left
  uint16_t store_port_ = 0;
  std::string store_host_;
  int server_ = kNone;           // the rank that serves the store
  uint64_t renumbered_ = 0;      // the generation in which ranks got the numbers that they have
  std::map<int, int> starting_;  // ranks whose process was ordered and is not there yet: the node
  int spare_deaths_ = 0;
  std::map<int, int> spares_used_;     // of the incident, by node
  std::map<int, TimePoint> asked_at_;  // for spares to grow with, by node
  int code_ = 1;  // of the last rank that ended: the job's, should it have to stop
};

}  // namespace convoy::resilience
