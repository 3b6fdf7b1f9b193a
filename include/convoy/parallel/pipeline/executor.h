#pragma once

#include <convoy/comm/group.h>
#include <convoy/parallel/schedule/schedule.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace convoy::pipeline {

// What a stage computes. `hidden` is what the stage before it produced for this micro-batch (not
// defined on the first stage, which takes its own input). The last stage returns its part of the
// loss, a scalar; in forward-only runs whatever the caller wants of it. Others return the hidden
// state of the next stage, contiguous and of the agreed shape.
using StageFunction = std::function<at::Tensor(const at::Tensor& hidden, int microbatch)>;

// What travels between stages: the same for all of them and for every micro-batch of a run.
struct HiddenState {
  std::vector<int64_t> shape;  // [tokens (/ tp with sequence parallel), hidden], say
  at::TensorOptions options;
};

// Executes pipeline schedules for one rank: the thin half of the pipeline, which decides nothing.
//
// The messages of an exchange are started together, where the schedule lists it; receives are
// waited for by the compute that needs them; sends are waited for at the end of the run, so neither
// blocks a compute that could go on. A micro-batch's input, output and graph live from its forward
// to its backward.
//
// Owns nothing but what is in flight. Threads: one caller at a time; the schedule's actions run on
// the caller's thread. Blocks for as long as the neighbouring stages need, at most the group's
// timeout. Errors: those of the stage functions and of comm::Group, with "(stage 1 of 4, forward of
// micro-batch 3, waiting for the hidden state of stage 0)" behind their text.
class Executor {
 public:
  // `chunks[c]` computes this rank's chunk c, stage c * pp.size() + pp.rank(). With groups on GPUs
  // collective over `pp`: neighbours connect.
  Executor(comm::Group pp, std::vector<StageFunction> chunks);

  // Once more, after the group was formed again: neighbours of GPU groups connect; collective.
  void connect() const;

  // Runs all forwards and backwards of a schedule made for pp.size() ranks and this many chunks.
  // Gradients accumulate into the parameters. `before_last_backward` (may be null) is told the
  // chunk whose gradients the next backward completes. Returns the detached outputs of the last
  // stage by micro-batch; empty on ranks that don't hold it.
  std::vector<at::Tensor> run(const schedule::Schedule& schedule, const HiddenState& hidden,
                              const std::function<void(int chunk)>& before_last_backward = {});

  // Only forwards, without autograd: evaluation and generation. Micro-batches flow through the
  // stages in groups of pp.size() - 1, so that none waits for itself around the ring of chunks.
  // Returns as run().
  std::vector<at::Tensor> forward_only(int microbatches, const HiddenState& hidden);

  bool has_first_stage() const { return pp_.rank() == 0; }
  bool has_last_stage() const { return pp_.rank() == pp_.size() - 1; }

 private:
  // A micro-batch in one chunk, from its first receive to its backward.
  struct InFlight {
    at::Tensor input;
    comm::Pending input_pending;
    at::Tensor output;
    at::Tensor output_grad;
    comm::Pending grad_pending;
  };

  void perform(const schedule::Step& step);
  void exchange(const schedule::Step& step);
  comm::Message message(const schedule::Action& action);
  void keep(const schedule::Action& action, comm::Pending pending);
  void forward(const schedule::Action& action);
  void backward(const schedule::Action& action);
  at::Tensor compute(int chunk, int microbatch, const at::Tensor& input);
  InFlight& flight(const schedule::Action& action);
  int stage(int chunk) const { return chunk * pp_.size() + pp_.rank(); }
  bool is_last(int chunk) const;
  // Runs `body`; adds stage, action and what is being awaited to the text of its error.
  void located(const schedule::Action& action, const std::function<void()>& body) const;
  // Waits for a message that stage `other` has to send or to take; `what`: "the gradient of".
  void await(comm::Pending& pending, const char* what, int other);
  void drain_sends();
  void reset();

  comm::Group pp_;
  std::vector<StageFunction> chunks_;
  const uint16_t trace_forward_, trace_backward_, trace_await_;  // interned
  // Of the current run.
  const HiddenState* hidden_ = nullptr;
  std::vector<std::vector<InFlight>> flights_;  // [chunk][micro-batch]
  struct Sent {
    schedule::Action action;
    comm::Pending pending;
  };
  std::vector<Sent> sends_;
  const char* awaited_ = nullptr;  // what await() waits for now, and whose it is
  int awaited_stage_ = 0;
  std::vector<at::Tensor> results_;
  std::function<void(int)> before_last_backward_;
  int microbatches_ = 0;
};

}  // namespace convoy::pipeline
