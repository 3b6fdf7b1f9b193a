#pragma once

#include <convoy/ckpt/client.h>
#include <convoy/ckpt/load_nearest.h>
#include <convoy/ckpt/tensor_state.h>

#include <c10/core/Event.h>

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace convoy::ckpt {

struct CheckpointerOptions {
  ClientOptions client;
  // The copy goes on beside the caller until fence(), with the threads of client.threads. False: on
  // the CPU save_async() returns when it is done. (From a GPU it always goes on.)
  bool spread = false;
};

// A rank's checkpoints, from torch tensors: state goes to the memory of the node's agent, which
// carries it to the other tiers.
//
// One thread at a time. A save that fails must not end training: its Status is for the caller to
// report. Nothing here is collective, so that a rank never waits for others in a save.
class Checkpointer {
 public:
  // As SnapshotClient::connect().
  static Result<std::unique_ptr<Checkpointer>> create(CheckpointerOptions options);
  // Waits for the copy that goes on.
  ~Checkpointer();

  // Reserves memory for states like this one, so that the first save is as fast as later ones: two
  // snapshots in the agent, and for a GPU one more in pinned memory.
  Status prepare(const TensorState& state);

  // Takes the snapshot of a step. The tensors must not change before fence(); they are kept alive
  // until then. CPU, not spread: blocks for the copy, and returns what came of it. Else: returns at
  // once, with what came of the save before; from a GPU the copy runs on a stream of its own, after
  // what the current stream has been given. `notes`, `everywhere`: as SnapshotClient::save().
  Result<SaveOutcome> save_async(uint64_t step, TensorState state,
                                 const std::map<std::string, std::string>& notes = {},
                                 bool everywhere = false);
  // Before the tensors change. CPU: blocks until they have been copied. GPU: lets the current
  // stream wait for that, not the host.
  void fence();
  // What came of the last save; blocks until it is known.
  Result<SaveOutcome> outcome();

  // Blocks until the step has come to the tier; as SnapshotClient::wait().
  Status wait(uint64_t step, Tier tier, Nanos timeout);

 private:
  Checkpointer(CheckpointerOptions options, std::unique_ptr<SnapshotClient> client);
  Result<SaveOutcome> save_host(uint64_t step, const TensorState& state,
                                const std::map<std::string, std::string>& notes, bool everywhere);
  void copy_from_device(const TensorState& state);

  const CheckpointerOptions options_;
  const std::unique_ptr<SnapshotClient> client_;
  std::future<Result<SaveOutcome>> going_;
  Result<SaveOutcome> last_ = SaveOutcome{};
  TensorState pinned_;                // copies of a GPU's state
  std::optional<c10::Event> copied_;  // to pinned_
};

// load_nearest() into torch tensors, on the CPU or a GPU (through as much memory of the host).
// Collective over `exchange`.
Result<std::optional<NearestStep>> load_nearest(const LoadPlaces& places, const TensorState& wanted,
                                                Exchange& exchange,
                                                const LoadOptions& options = {});

}  // namespace convoy::ckpt
