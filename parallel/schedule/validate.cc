// Decides whether a schedule is right, from its lists alone. Three passes: the numbers and counts,
// each rank's own order (what is used must be there), and the communication of all ranks together,
// run once with buffered and once with rendezvous sends.
#include <convoy/parallel/schedule/validate.h>

#include <algorithm>
#include <deque>
#include <map>

namespace convoy::schedule {
namespace {

Status wrong(const Schedule& schedule, int rank, const std::string& text) {
  return Status(Code::kInvalidArgument,
                "schedule " + schedule.name + ", rank " + std::to_string(rank) + ": " + text + ".");
}

// The stage at the other end of a communication, or that the model does not have (-1).
int peer_stage(const Schedule& schedule, int rank, const Action& action) {
  const bool next = action.kind == Kind::kSendForward || action.kind == Kind::kRecvBackward;
  const int stage = schedule.stage_of(rank, action.chunk) + (next ? 1 : -1);
  return stage >= 0 && stage < schedule.stages() ? stage : -1;
}

Status check_action(const Schedule& schedule, int rank, const Step& step, const Action& action) {
  if (action.microbatch < 0 || action.microbatch >= schedule.microbatches || action.chunk < 0 ||
      action.chunk >= schedule.chunks) {
    return wrong(schedule, rank, describe(action) + " is out of range");
  }
  if (is_compute(action.kind)) {
    if (step.size() != 1) {
      return wrong(schedule, rank, describe(action) + " must be a step of its own");
    }
    return ok_status();
  }
  const int other = peer_stage(schedule, rank, action);
  if (other < 0) {
    return wrong(schedule, rank, describe(action) + " has no stage at its other end");
  }
  if (schedule.rank_of(other) != action.peer || action.peer == rank) {
    return wrong(schedule, rank,
                 describe(action) + " names the wrong rank; stage " + std::to_string(other) +
                     " runs on rank " + std::to_string(schedule.rank_of(other)));
  }
  return ok_status();
}

Status check_shape(const Schedule& schedule) {
  if (schedule.ranks < 1 || schedule.microbatches < 1 || schedule.chunks < 1) {
    return wrong(schedule, 0, "ranks, micro-batches and chunks must be at least 1");
  }
  if (schedule.steps.size() != static_cast<size_t>(schedule.ranks) ||
      schedule.max_activations.size() != static_cast<size_t>(schedule.ranks)) {
    return wrong(schedule, 0, "there must be one list of steps and one bound for each rank");
  }
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    for (const Step& step : schedule.steps[rank]) {
      if (step.empty()) return wrong(schedule, rank, "an empty step");
      for (const Action& action : step) {
        CONVOY_RETURN_IF_ERROR(check_action(schedule, rank, step, action));
      }
    }
  }
  return ok_status();
}

// One rank's walk through its own list: which actions it has done so far.
class RankOrder {
 public:
  RankOrder(const Schedule& schedule, int rank) : schedule_(schedule), rank_(rank) {
    const size_t count = size_t{6} * schedule.chunks * schedule.microbatches;
    done_.assign(count, false);
    next_backward_.assign(schedule.chunks, 0);
  }

  Status walk() {
    for (const Step& step : schedule_.steps[rank_]) {
      for (const Action& action : step) {
        CONVOY_RETURN_IF_ERROR(visit(action));
      }
      // Only after the whole exchange: what it receives cannot be used by itself.
      for (const Action& action : step) done_[index(action)] = true;
    }
    return check_all_done();
  }

 private:
  size_t index(Kind kind, int chunk, int microbatch) const {
    return (static_cast<size_t>(kind) * schedule_.chunks + chunk) * schedule_.microbatches +
           microbatch;
  }
  size_t index(const Action& a) const { return index(a.kind, a.chunk, a.microbatch); }
  bool did(Kind kind, int chunk, int microbatch) const {
    return done_[index(kind, chunk, microbatch)];
  }

  // Whether the input that comes from the neighbouring stage is here.
  bool has_input(const Action& action) const {
    const bool forward = action.kind == Kind::kForward;
    const int other = schedule_.stage_of(rank_, action.chunk) + (forward ? -1 : 1);
    if (other < 0 || other == schedule_.stages()) return true;
    if (schedule_.rank_of(other) == rank_) {
      return did(action.kind, schedule_.chunk_of(other), action.microbatch);
    }
    return did(forward ? Kind::kRecvForward : Kind::kRecvBackward, action.chunk, action.microbatch);
  }

  Status visit(const Action& action) {
    if (seen_twice(action)) return wrong(schedule_, rank_, describe(action) + " is listed twice");
    const bool produced = (action.kind != Kind::kSendForward ||
                           did(Kind::kForward, action.chunk, action.microbatch)) &&
                          (action.kind != Kind::kSendBackward ||
                           did(Kind::kBackward, action.chunk, action.microbatch));
    if (!produced) {
      return wrong(schedule_, rank_, describe(action) + " comes before it has been computed");
    }
    return is_compute(action.kind) ? visit_compute(action) : ok_status();
  }

  bool seen_twice(const Action& action) {
    const size_t at = index(action);
    if (seen_.size() < done_.size()) seen_.resize(done_.size(), false);
    const bool before = seen_[at];
    seen_[at] = true;
    return before;
  }

  Status visit_compute(const Action& action) {
    if (!has_input(action)) {
      return wrong(schedule_, rank_, describe(action) + " comes before its input");
    }
    if (action.kind == Kind::kForward) {
      if (++activations_ > schedule_.max_activations[rank_]) {
        return wrong(schedule_, rank_,
                     describe(action) + " makes " + std::to_string(activations_) +
                         " activations, more than the " +
                         std::to_string(schedule_.max_activations[rank_]) + " that are promised");
      }
      return ok_status();
    }
    if (!did(Kind::kForward, action.chunk, action.microbatch)) {
      return wrong(schedule_, rank_, describe(action) + " comes before its forward");
    }
    if (action.microbatch != next_backward_[action.chunk]++) {
      return wrong(
          schedule_, rank_,
          describe(action) + " is out of order; gradients must accumulate in micro-batch order");
    }
    --activations_;
    return ok_status();
  }

  Status check_all_done() const {
    for (int chunk = 0; chunk < schedule_.chunks; ++chunk) {
      for (int m = 0; m < schedule_.microbatches; ++m) {
        for (const Kind kind : {Kind::kForward, Kind::kBackward}) {
          if (!did(kind, chunk, m)) {
            return wrong(schedule_, rank_, describe({kind, m, chunk, -1}) + " is missing");
          }
        }
      }
    }
    return ok_status();
  }

  const Schedule& schedule_;
  int rank_;
  int activations_ = 0;
  std::vector<bool> done_;
  std::vector<bool> seen_;
  std::vector<int> next_backward_;  // [chunks] the micro-batch whose backward is due
};

// Runs the communication of all ranks: each rank starts a whole exchange and leaves it when every
// member has completed. A message is matched when both ends have been started; a rendezvous send
// completes only then, a buffered one at once.
class CommunicationRun {
 public:
  CommunicationRun(const Schedule& schedule, bool rendezvous)
      : schedule_(schedule), rendezvous_(rendezvous), at_(schedule.ranks, 0) {
    pending_.resize(schedule.ranks, 0);
  }

  Status run() {
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      pending_[rank] = 0;
      work_.push_back(rank);
    }
    while (!work_.empty()) {
      const int rank = work_.front();
      work_.pop_front();
      CONVOY_RETURN_IF_ERROR(advance(rank));
    }
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      if (at_[rank] < schedule_.steps[rank].size()) return deadlock();
    }
    for (const auto& [ends, channel] : channels_) {
      if (!channel.sends.empty()) {
        return wrong(schedule_, ends.first, describe(channel.sends.front()) + " is never received");
      }
    }
    return ok_status();
  }

 private:
  struct Channel {  // from one rank to another
    std::deque<Action> sends;
    std::deque<Action> recvs;
  };

  // Runs `rank` until it must wait for a peer or is done.
  Status advance(int rank) {
    while (pending_[rank] == 0 && at_[rank] < schedule_.steps[rank].size()) {
      const Step& step = schedule_.steps[rank][at_[rank]++];
      for (const Action& action : step) {
        if (!is_compute(action.kind)) {
          CONVOY_RETURN_IF_ERROR(start(rank, action));
        }
      }
    }
    return ok_status();
  }

  Status start(int rank, const Action& action) {
    const bool send = is_send(action.kind);
    const int from = send ? rank : action.peer;
    const int to = send ? action.peer : rank;
    Channel& channel = channels_[{from, to}];
    if (send) {
      channel.sends.push_back(action);
      if (rendezvous_) ++pending_[rank];
    } else {
      channel.recvs.push_back(action);
      ++pending_[rank];
    }
    while (!channel.sends.empty() && !channel.recvs.empty()) {
      CONVOY_RETURN_IF_ERROR(match(from, to, channel));
    }
    return ok_status();
  }

  Status match(int from, int to, Channel& channel) {
    const Action sent = channel.sends.front();
    const Action received = channel.recvs.front();
    const bool forward = sent.kind == Kind::kSendForward;
    const bool same = sent.microbatch == received.microbatch &&
                      received.kind == (forward ? Kind::kRecvForward : Kind::kRecvBackward) &&
                      peer_stage(schedule_, from, sent) == schedule_.stage_of(to, received.chunk);
    if (!same) {
      return wrong(schedule_, to,
                   describe(received) + " meets another message: rank " + std::to_string(from) +
                       "'s " + describe(sent));
    }
    channel.sends.pop_front();
    channel.recvs.pop_front();
    complete(to);
    if (rendezvous_) complete(from);
    return ok_status();
  }

  void complete(int rank) {
    if (--pending_[rank] == 0) work_.push_back(rank);
  }

  Status deadlock() const {
    std::string text = "deadlock with ";
    text += rendezvous_ ? "sends that wait for their receiver:" : "buffered sends:";
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      if (pending_[rank] == 0) continue;
      text += " rank " + std::to_string(rank) + " waits in step " + std::to_string(at_[rank] - 1) +
              " (" + describe(schedule_.steps[rank][at_[rank] - 1].front()) + ");";
    }
    text.back() = '.';
    return Status(Code::kInvalidArgument, "schedule " + schedule_.name + ": " + text);
  }

  const Schedule& schedule_;
  bool rendezvous_;
  std::vector<size_t> at_;    // [ranks] the step to start next
  std::vector<int> pending_;  // [ranks] members of the started exchange that are not complete
  std::deque<int> work_;      // ranks that may be able to go on
  std::map<std::pair<int, int>, Channel> channels_;
};

}  // namespace

Status validate(const Schedule& schedule) {
  CONVOY_RETURN_IF_ERROR(check_shape(schedule));
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    CONVOY_RETURN_IF_ERROR(RankOrder(schedule, rank).walk());
  }
  CONVOY_RETURN_IF_ERROR(CommunicationRun(schedule, /*rendezvous=*/false).run());
  return CommunicationRun(schedule, /*rendezvous=*/true).run();
}

int peak_activations(const Schedule& schedule, int rank) {
  int now = 0;
  int peak = 0;
  for (const Step& step : schedule.steps[rank]) {
    if (step[0].kind == Kind::kForward) peak = std::max(peak, ++now);
    if (step[0].kind == Kind::kBackward) --now;
  }
  return peak;
}

}  // namespace convoy::schedule
