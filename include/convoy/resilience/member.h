#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

// A worker's side of recovery: how a process of a job learns that the job goes on in another
// generation, and takes its place in it.
//
//   generation g:   steps … groups fail, or summoned() turns true
//   await_summons() → the worker's place in generation g + 1
//   ready()         → it has left its old groups; returns when all others have, too
//   … groups are made anew, state is brought, a step is done …
//   running()
//
// Whatever fails on the way there: leave the groups again, await_summons().
namespace convoy::resilience {

// A worker's place in a generation.
struct Summons {
  uint64_t generation = 0;
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;
  int local_world_size = 1;
  std::string mesh;
  bool serves_store = false;  // this worker is asked to serve the generation's store
  std::string reason;         // why there is a new generation, for people
};

// Where other workers reach a store that this one serves.
struct StorePlace {
  std::string host;   // empty: on one machine, or as the launcher knows it
  uint16_t port = 0;  // 0: there is none
};

// All workers of a generation are ready.
struct Go {
  uint64_t generation = 0;
  std::string host;  // of the store
  uint16_t port = 0;
  bool has_survivors = false;  // some have been in the generation before; else all begin anew
};

// The first step of a generation, for the incident's story. Seconds are counted from Go.
struct FirstStep {
  int64_t step = 0;     // that was done
  int64_t resumed = 0;  // the step that training went on behind
  std::string source;   // of this worker's state: "its own", "rank 5"
  double joined = 0, loaded = 0, stepped = 0;
};

// Something that the job's supervisor can't see by itself.
struct Trouble {
  Status status;
  int64_t step = 0;
  bool is_final = false;  // the program ends with it
  // Replicas differ: these ranks hold wrong values; none: nobody can tell who does.
  bool is_corruption = false;
  std::vector<int> wrong{};
  bool is_held = false;  // no trouble: this worker has saved and waits, see Member::hold()
};

// What a generation is asked to do before it is left.
enum class Hold : uint8_t {
  kNo,
  kInMemory,  // save at the next border of steps, and wait there for a summons
  kDurably,   // the same, in the folder
};

// The line to the supervisor, through this node's launcher. Also shows this process's vitals()
// there. Threads: one of its own, which reads; all methods but summoned() and trouble() from one
// thread. The destructor ends the thread.
class Member {
 public:
  // `control` as CONVOY_CONTROL: "SOCKET#NUMBER".
  // kUnavailable: nobody listens there; kInvalidArgument.
  static Result<std::unique_ptr<Member>> join(const std::string& control);
  ~Member();

  // Called on the member's thread as soon as there is a new generation: lets go whatever blocks on
  // ranks of the old one (aborts groups). Must not block.
  void on_summons(std::function<void()> call);
  // Whether a later generation than the one that was entered last has been announced. A load.
  bool summoned() const;
  // Of the generation that was entered last; all its workers are asked, not all at once. A load.
  Hold hold() const;

  // Blocks until there is a generation that is later than the last one which this returned.
  // kDeadlineExceeded; kUnavailable: the launcher has gone.
  Result<Summons> await_summons(Nanos timeout);
  // Tells that this worker stands at a border of steps and has left its groups; `store`: that it
  // serves. Blocks until all have told so. kAborted: there is a later generation.
  Result<Go> ready(const Summons& summons, const StorePlace& store, Nanos timeout);
  void running(uint64_t generation, const FirstStep& first);
  void trouble(uint64_t generation, const Trouble& trouble);

 private:
  struct State;
  explicit Member(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace convoy::resilience
