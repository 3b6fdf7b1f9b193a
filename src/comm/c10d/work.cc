// How a started operation is waited for: collectives through the lane, messages through their
// transfers.
#include "src/comm/c10d/work.h"

#include "src/comm/c10d/errors.h"
#include <convoy/base/vitals.h>

#include <ATen/core/ivalue.h>

#include <atomic>

namespace convoy::comm {
namespace {

using std::chrono::milliseconds;

uint64_t next_key() {
  static std::atomic<uint64_t> next = 1;
  return next++;
}

}  // namespace

CollectiveStep::CollectiveStep(GroupContext context, Operation operation, milliseconds timeout)
    : context_(std::move(context)),
      operation_(std::move(operation)),
      timeout_(timeout),
      key_(next_key()) {
  if (Observer* observer = context_.hooks->observer()) observer->made(key_, false);
}

void CollectiveStep::perform() {
  if (Observer* observer = context_.hooks->observer()) observer->started(key_);
  const bool timed = context_.hooks->wants_completion();
  const TimePoint begin = timed ? Clock::system().now() : TimePoint();
  try {
    status_ = context_.group->run(operation_.collectives(), Deadline::after(timeout_));
    if (status_.ok()) operation_.finish();
  } catch (...) {
    // Copying back into the user's tensors is torch code.
    status_ = current_exception_status();
  }
  if (!status_.ok()) operation_.discard();
  if (timed) {
    duration_ms_ = std::chrono::duration<float, std::milli>(Clock::system().now() - begin).count();
  }
}

void CollectiveStep::settle() {
  if (at_end_) at_end_();
  if (status_.ok()) {
    if (duration_ms_) context_.hooks->fire_completion(key_, duration_ms_);
  } else {
    context_.hooks->fire_abort();
  }
  std::unique_lock lock(mutex_);
  settled_ = true;
  if (!future_) return;
  lock.unlock();  // callbacks of the future may do anything
  settle_future();
}

void CollectiveStep::settle_future() {
  if (status_.ok()) {
    future_->markCompleted(c10::IValue(operation_.results()));
  } else {
    future_->setError(to_exception(status_));
  }
}

c10::intrusive_ptr<c10::ivalue::Future> CollectiveStep::future() {
  std::unique_lock lock(mutex_);
  if (future_) return future_;
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
  const bool settled = settled_;
  lock.unlock();
  if (settled) settle_future();
  return future_;
}

CollectiveWork::CollectiveWork(int rank, std::shared_ptr<CollectiveStep> step, uint64_t sequence)
    : Work(rank, step->operation().type(), step->operation().title()),
      step_(std::move(step)),
      sequence_(sequence) {
  step_->at_end(std::move(recordFunctionEndCallback_));
}

bool CollectiveWork::isCompleted() {
  return lane().is_done(*step_);
}

bool CollectiveWork::isSuccess() const {
  return lane().is_done(*step_) && step_->status().ok();
}

std::exception_ptr CollectiveWork::exception() const {
  if (!lane().is_done(*step_) || step_->status().ok()) return nullptr;
  return to_exception(step_->status());
}

bool CollectiveWork::wait(milliseconds timeout) {
  if (timeout == kNoTimeout) {
    lane().wait(*step_);
  } else if (!lane().wait_for(*step_, timeout)) {
    throw_status({Code::kDeadlineExceeded,
                  step_->operation().name() + " number " + std::to_string(sequence_) +
                      " in group " + step_->context().name + " is not complete after " +
                      std::to_string(timeout.count()) + " ms; it goes on"});
  }
  throw_if_failed(step_->status());
  return true;
}

void CollectiveWork::abort() {
  step_->context().group->abort(step_->operation().name() + ": abort() of its work was called");
}

TransferWork::TransferWork(int rank, c10d::OpType type, GroupContext context,
                           std::vector<Message> messages, milliseconds timeout)
    : Work(rank, type, type == c10d::OpType::SEND ? "convoy:send" : "convoy:recv"),
      context_(std::move(context)),
      messages_(std::move(messages)),
      timeout_(timeout),
      deadline_(Deadline::after(timeout)),
      key_(next_key()) {
  for (const Message& m : messages_) results_.push_back(m.tensor);
  if (Observer* observer = context_.hooks->observer()) observer->made(key_, true);
}

TransferWork::~TransferWork() {
  if (concluded_) return;
  if (Observer* observer = context_.hooks->observer()) observer->dropped(key_);
}

bool TransferWork::isCompleted() {
  if (concluded_) return true;
  const std::unique_lock lock(waiting_, std::try_to_lock);
  if (!lock || concluded_) return concluded_;
  for (const Message& m : messages_) {
    if (!m.transfer->test()) return false;
  }
  Status status;
  for (const Message& m : messages_) {
    const Status s = m.transfer->wait(deadline_);
    if (status.ok()) status = s;
  }
  conclude(status);
  return true;
}

bool TransferWork::wait(milliseconds timeout) {
  if (!concluded_) {
    const std::lock_guard lock(waiting_);
    if (!concluded_) {
      const bool limited = timeout != kNoTimeout;
      const Deadline deadline = limited ? Deadline::after(timeout) : deadline_;
      Status status;
      const WaitingForOthers waiting;
      for (const Message& m : messages_) {
        const Status s = m.transfer->wait(deadline);
        if (limited && s.code() == Code::kDeadlineExceeded && !deadline_.passed()) throw_status(s);
        if (status.ok()) status = s;
      }
      conclude(status);
    }
  }
  throw_if_failed(status_);
  return true;
}

void TransferWork::conclude(Status status) {
  if (status.ok()) {
    try {
      for (const Message& m : messages_) {
        if (m.receives && m.stand_in.defined()) copy_values(m.tensor, m.stand_in);
      }
    } catch (...) {
      status = current_exception_status();
    }
  }
  if (!messages_.empty()) source_ = messages_.front().transfer->source();
  messages_.clear();
  status_ = status;
  concluded_ = true;
  if (recordFunctionEndCallback_) recordFunctionEndCallback_();
  if (status_.ok()) {
    Observer* observer = context_.hooks->observer();
    if (opType_ == c10d::OpType::RECVANYSOURCE && observer != nullptr) {
      observer->received(key_, source_);
    }
    context_.hooks->fire_completion(key_, std::nullopt);
  } else {
    context_.hooks->fire_abort();
  }
}

bool TransferWork::isSuccess() const {
  return concluded_ && status_.ok();
}

std::exception_ptr TransferWork::exception() const {
  return concluded_ && !status_.ok() ? to_exception(status_) : nullptr;
}

int TransferWork::sourceRank() const {
  return source_;
}

void TransferWork::abort() {
  context_.group->abort("abort() of a message's work was called");
}

c10::intrusive_ptr<c10::ivalue::Future> TransferWork::getFuture() {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "convoy: messages have no future, because no thread watches them; "
                              "use wait() or is_completed()");
}

BatchWork::BatchWork(int rank, std::vector<c10::intrusive_ptr<c10d::Work>> parts)
    : Work(rank, c10d::OpType::COALESCED), parts_(std::move(parts)) {}

bool BatchWork::isCompleted() {
  for (const auto& part : parts_) {
    if (!part->isCompleted()) return false;
  }
  return true;
}

bool BatchWork::isSuccess() const {
  for (const auto& part : parts_) {
    if (!part->isSuccess()) return false;
  }
  return true;
}

std::exception_ptr BatchWork::exception() const {
  for (const auto& part : parts_) {
    if (auto e = part->exception()) return e;
  }
  return nullptr;
}

bool BatchWork::wait(milliseconds timeout) {
  for (const auto& part : parts_) part->wait(timeout);
  return true;
}

}  // namespace convoy::comm
