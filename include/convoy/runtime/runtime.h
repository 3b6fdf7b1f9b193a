#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/comm/group.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/launch/environment.h>
#include <convoy/mesh/mesh.h>
#include <convoy/resilience/member.h>

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <memory>
#include <string>

namespace convoy::runtime {

struct RuntimeOptions {
  std::string mesh;  // "tp=2,pp=2,dp=2"; "": CONVOY_MESH, else all ranks along dp
  // Where the program computes: "cpu", or "cuda": the GPU whose index is the local rank, with NCCL
  // between GPUs. Loads libtorch_cuda. More local ranks than GPUs only with
  // NCCL_MULTI_RANK_GPU_ENABLE=1, for tests: they share GPUs.
  std::string device = "cpu";
  // Let CPU tensors live in memory that the machine's ranks share, so that collectives move them
  // without staging. Switched on only when there are other ranks and the device is the CPU.
  bool shared_tensors = true;
  // The program can go on when other ranks fail: it calls rejoin() then. Without a launcher that
  // leads it (`convoy run` does) this does nothing.
  bool recover = false;
};

// One worker of a job, from its environment to its groups: what every program needs before it can
// build a model, on 1 rank as on 64.
//
// start() reads the launch environment (`convoy run`, torchrun, mpirun, srun, or none: one rank),
// checks the loaded torch, gives log lines their identity, sets the number of threads, connects to
// the job's store and makes the mesh, whose groups are on the device. The destructor takes all of
// it down in reverse. One a process at a time; used by one thread. Blocks: start() until rank 0's
// store can be reached; everything has CONVOY_TIMEOUT as its deadline. Nothing is left behind when
// a process is killed.
class Runtime {
 public:
  // kInvalidArgument (environment, mesh, device's name), kFailedPrecondition (torch of another
  // version, no NCCL in this build, no GPU for this rank),
  // kAlreadyExists (port in use), kDeadlineExceeded (the store or ranks did not come).
  static Result<std::unique_ptr<Runtime>> start(const RuntimeOptions& options = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int rank() const { return environment_.rank; }
  int size() const { return environment_.world_size; }
  // Of the membership that this process is in; environment().generation is the one that it was
  // launched in.
  int generation() const { return generation_; }
  const launch::Environment& environment() const { return environment_; }
  const Mesh& mesh() const { return mesh_; }
  // The one that the job was started for; mesh() may have fewer data-parallel ranks by now.
  const Mesh& full_mesh() const { return full_mesh_; }
  at::Device device() const { return device_; }  // this rank's
  comm::MeshGroups& groups() { return *groups_; }
  // The group along some dimensions of the mesh: group("tp"). Collective on first use.
  comm::Group group(std::string_view dimension) { return groups_->group({dimension}); }

  // What rank 0 works out alone while the others wait quietly, for as long as the job's timeout:
  // rank 0 calls `make`, every rank returns its result. Once a key.
  double from_rank_zero(const std::string& key, const std::function<double()>& make);

  // --- going on when ranks fail ---

  // Whether rejoin() can succeed.
  bool can_recover() const { return member_ != nullptr; }
  // Whether all are to save at a border of steps and wait there; ranks hear of it at different
  // times. held(): this one has. The steps go on in the next generation, after rejoin().
  resilience::Hold hold() const;
  void held(int64_t step);
  // Tells the supervisor, if there is one, that replicas differ; `wrong`: ranks, if that is known.
  void report_corruption(const std::string& what, const std::vector<int>& wrong, int64_t step);
  // Whether ranks wait for each other at the end, since one might still be replaced. The same on
  // all ranks, though machines may differ in whether theirs can be.
  bool ends_together() const { return can_recover() || spans_machines_; }
  // Whether the job was started on several machines, of which some may be lost by now.
  bool spans_machines() const { return spans_machines_; }
  // Whether this process has come into a job that was under way, to take a failed rank's place: its
  // state is to be had from the others.
  bool is_newcomer() const { return is_newcomer_; }
  // After `why` has failed a group: leaves all groups and takes this process's place in the job's
  // next generation. `step`: of the training, done. Blocks until the groups are formed anew (those
  // that were handed out go on with the new ranks) or it is known that they never will: then `why`.
  // A failure on the way leads into the generation after that one by itself.
  Status rejoin(const Status& why, int64_t step);
  // A step is done, which shows that this process lives; the first one of a generation is told,
  // with where the state that it began from came from.
  void stepped(int64_t step);
  // The state that a generation begins with is there.
  void caught_up(int64_t resumed, const std::string& source);
  // The program ends because of this, which no other process is the cause of.
  void give_up(const Status& why, int64_t step);

 private:
  Runtime(launch::Environment environment, RuntimeOptions options);
  Status choose_device(const std::string& name);
  Status connect();
  void make_groups(const std::string& prefix);
  Status join_crew();
  Status await_place();
  Status enter(const resilience::Summons& summons);
  // The generation's groups, through the store that one of its ranks serves.
  Status form_groups(const resilience::Summons& summons, const resilience::Go& go,
                     c10::intrusive_ptr<c10d::Store> server);
  // The dimensions of the groups that survivors have.
  Result<std::string> told_by_survivor(c10d::Store& store);

  RuntimeOptions options_;
  launch::Environment environment_;
  Mesh mesh_, full_mesh_;
  at::Device device_ = at::kCPU;
  bool shared_tensors_ = false;
  c10::intrusive_ptr<c10d::Store> store_;
  std::unique_ptr<comm::MeshGroups> groups_;
  int generation_ = 0;
  bool spans_machines_ = false;
  bool is_newcomer_ = false;
  bool first_step_is_told_ = true;  // of this generation
  resilience::FirstStep first_step_;
  TimePoint gone_at_{};     // when this generation began
  TimePoint stepped_at_{};  // when the last step was done, or could begin
  std::unique_ptr<resilience::Member>
      member_;  // null: nobody leads; after groups_, which it aborts
};

// The number of threads a rank computes with: OMP_NUM_THREADS if it is set, else the machine's
// cores divided by its ranks, at least 1.
int threads_per_rank(const launch::Environment& environment);

}  // namespace convoy::runtime
