// Turns a schedule's actions into calls of stage functions, autograd and the pipeline group. Order
// and peers come from the schedule; nothing is decided here.
#include <convoy/base/check.h>
#include <convoy/parallel/pipeline/executor.h>
#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace convoy::pipeline {
namespace {

using schedule::Action;
using schedule::Kind;

// NCCL connects two ranks at their first message, in all directions that the call's group has, and
// the call waits for the other side. A schedule groups what one rank sends and receives where the
// other rank does one after the other: both would wait for ever. So each rank meets its neighbours
// in both directions here, before the first schedule. As PyTorch's PipelineStage does.
void connect_neighbours(const comm::Group& pp) {
  if (pp.alone() || pp.device() != at::kCUDA) return;
  const int next = (pp.rank() + 1) % pp.size(), previous = (pp.rank() + pp.size() - 1) % pp.size();
  std::vector<comm::Message> messages;
  for (const int peer : {next, previous}) {
    const auto word = [] { return at::zeros({1}, at::TensorOptions(at::kCUDA).dtype(at::kInt)); };
    messages.push_back({true, word(), peer});
    messages.push_back({false, word(), peer});
    if (next == previous) break;
  }
  for (comm::Pending& pending : pp.start_exchange(messages)) pending.wait();
}

}  // namespace

Executor::Executor(comm::Group pp, std::vector<StageFunction> chunks)
    : pp_(std::move(pp)),
      chunks_(std::move(chunks)),
      trace_forward_(trace::intern(trace::names::kForward)),
      trace_backward_(trace::intern(trace::names::kBackward)),
      trace_await_(trace::intern(trace::names::kAwaitStage)) {
  CONVOY_CHECK(!chunks_.empty(), "a pipeline rank computes at least one chunk");
  connect();
}

void Executor::connect() const {
  connect_neighbours(pp_);
}

bool Executor::is_last(int chunk) const {
  return has_last_stage() && chunk + 1 == static_cast<int>(chunks_.size());
}

Executor::InFlight& Executor::flight(const Action& action) {
  return flights_[static_cast<size_t>(action.chunk)][static_cast<size_t>(action.microbatch)];
}

void Executor::located(const Action& action, const std::function<void()>& body) const {
  const auto where = [&] {
    std::string text = "stage " + std::to_string(stage(action.chunk)) + " of " +
                       std::to_string(pp_.size() * static_cast<int>(chunks_.size())) + ", " +
                       std::string(schedule::kind_name(action.kind)) + " of micro-batch " +
                       std::to_string(action.microbatch);
    if (awaited_ != nullptr) {
      text += std::string(", waiting for ") + awaited_ + " stage " + std::to_string(awaited_stage_);
    }
    return text;
  };
  try {
    body();
  } catch (c10::Error& error) {
    error.add_context(where());
    throw;
  }
}

void Executor::await(comm::Pending& pending, const char* what, int other) {
  awaited_ = what;
  awaited_stage_ = other;
  const trace::Span span(trace_await_, static_cast<uint64_t>(other));
  pending.wait();
  awaited_ = nullptr;
}

std::vector<at::Tensor> Executor::run(const schedule::Schedule& schedule, const HiddenState& hidden,
                                      const std::function<void(int chunk)>& before_last_backward) {
  CONVOY_CHECK(schedule.ranks == pp_.size() && schedule.chunks == static_cast<int>(chunks_.size()),
               "schedule " + schedule.name + " was made for another pipeline");
  hidden_ = &hidden;
  microbatches_ = schedule.microbatches;
  before_last_backward_ = before_last_backward;
  reset();
  for (const schedule::Step& step : schedule.steps[static_cast<size_t>(pp_.rank())]) {
    located(step.front(), [&] { perform(step); });
  }
  drain_sends();
  flights_.clear();
  return std::move(results_);
}

void Executor::reset() {
  sends_.clear();
  awaited_ = nullptr;
  results_.clear();
  if (has_last_stage()) results_.resize(static_cast<size_t>(microbatches_));
  flights_.clear();
  flights_.resize(chunks_.size());
  for (auto& chunk : flights_) chunk.resize(static_cast<size_t>(microbatches_));
}

void Executor::perform(const schedule::Step& step) {
  switch (step.front().kind) {
    case Kind::kForward:
      return forward(step.front());
    case Kind::kBackward:
      return backward(step.front());
    default:
      return exchange(step);
  }
}

void Executor::exchange(const schedule::Step& step) {
  std::vector<comm::Message> messages;
  for (const Action& action : step) messages.push_back(message(action));
  std::vector<comm::Pending> pending = pp_.start_exchange(messages);
  for (size_t i = 0; i < step.size(); ++i) keep(step[i], std::move(pending[i]));
}

comm::Message Executor::message(const Action& action) {
  InFlight& f = flight(action);
  switch (action.kind) {
    case Kind::kSendForward:
      return {true, f.output.detach(), action.peer};
    case Kind::kSendBackward:
      return {true, f.input.grad(), action.peer};
    case Kind::kRecvForward:
      f.input = at::empty(hidden_->shape, hidden_->options);
      return {false, f.input, action.peer};
    default:
      f.output_grad = at::empty(hidden_->shape, hidden_->options);
      return {false, f.output_grad, action.peer};
  }
}

void Executor::keep(const Action& action, comm::Pending pending) {
  InFlight& f = flight(action);
  if (schedule::is_send(action.kind)) {
    sends_.push_back({action, std::move(pending)});
    if (action.kind == Kind::kSendBackward) f = {};
  } else {
    (action.kind == Kind::kRecvForward ? f.input_pending : f.grad_pending) = std::move(pending);
  }
}

at::Tensor Executor::compute(int chunk, int microbatch, const at::Tensor& input) {
  const at::Tensor output = chunks_[static_cast<size_t>(chunk)](input, microbatch);
  if (is_last(chunk)) {
    results_[static_cast<size_t>(microbatch)] = output.detach();
  } else {
    TORCH_CHECK(output.sizes() == at::IntArrayRef(hidden_->shape) && output.is_contiguous(),
                "a stage must return a contiguous hidden state of shape ",
                at::IntArrayRef(hidden_->shape), ", not ", output.sizes());
  }
  return output;
}

void Executor::forward(const Action& action) {
  const trace::Span span(trace_forward_, static_cast<uint64_t>(action.microbatch));
  InFlight& f = flight(action);
  await(f.input_pending, "the hidden state of", stage(action.chunk) - 1);
  if (stage(action.chunk) > 0) {
    // With one pipeline rank the stage before is this rank's own: its output is at hand.
    if (!f.input.defined()) {
      f.input =
          flights_[static_cast<size_t>(action.chunk - 1)][static_cast<size_t>(action.microbatch)]
              .output.detach();
    }
    f.input.requires_grad_(true);
  }
  f.output = compute(action.chunk, action.microbatch, f.input);
}

void Executor::backward(const Action& action) {
  const trace::Span span(trace_backward_, static_cast<uint64_t>(action.microbatch));
  InFlight& f = flight(action);
  if (action.microbatch == microbatches_ - 1 && before_last_backward_) {
    before_last_backward_(action.chunk);
  }
  if (is_last(action.chunk)) {
    f.output.backward();
  } else {
    await(f.grad_pending, "the gradient of", stage(action.chunk) + 1);
    if (!f.output_grad.defined()) {
      InFlight& next =
          flights_[static_cast<size_t>(action.chunk + 1)][static_cast<size_t>(action.microbatch)];
      f.output_grad = next.input.grad();
      next = {};
    }
    f.output.backward(f.output_grad);
  }
  // The graph and its activations go now; only the input's gradient is still to be handed on.
  f.output.reset();
  f.output_grad.reset();
  if (stage(action.chunk) == 0) f = {};
}

void Executor::drain_sends() {
  for (Sent& sent : sends_) {
    const int step = sent.action.kind == Kind::kSendForward ? 1 : -1;
    located(sent.action,
            [&] { await(sent.pending, "its receipt by", stage(sent.action.chunk) + step); });
  }
  sends_.clear();
}

std::vector<at::Tensor> Executor::forward_only(int microbatches, const HiddenState& hidden) {
  const at::NoGradGuard no_grad;
  hidden_ = &hidden;
  microbatches_ = microbatches;
  reset();
  const int chunks = static_cast<int>(chunks_.size());
  const int last_stage = pp_.size() * chunks - 1;
  const int next = (pp_.rank() + 1) % pp_.size();
  const int previous = (pp_.rank() + pp_.size() - 1) % pp_.size();
  // With as many as ranks, each rank could wait to send one while all of them are on their way.
  const int together = std::max(1, pp_.size() - 1);
  for (int begin = 0; begin < microbatches; begin += together) {
    const int end = std::min(begin + together, microbatches);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int m = begin; m < end; ++m) {
        const Action action{Kind::kForward, m, chunk, -1};
        located(action, [&] {
          if (stage(chunk) > 0 && !pp_.alone())
            exchange({{Kind::kRecvForward, m, chunk, previous}});
          forward(action);
          if (stage(chunk) < last_stage && !pp_.alone()) {
            exchange({{Kind::kSendForward, m, chunk, next}});
          }
          if (!pp_.alone()) flight(action) = {};
        });
      }
    }
  }
  drain_sends();
  flights_.clear();
  return std::move(results_);
}

}  // namespace convoy::pipeline
