// Decides the order of work of the three schedules, and where communication stands in it. It does
// not judge the result: validate.cc does, without knowing how it was built.
#include <convoy/parallel/schedule/schedule.h>

#include <algorithm>
#include <tuple>

namespace convoy::schedule {
namespace {

constexpr int64_t kMaxActions = 1 << 24;  // compute actions of all ranks; beyond is a typing error

// Only the order of events matters here, so nominal costs do: a backward takes about two forwards.
constexpr int64_t kForwardTicks = 1;
constexpr int64_t kBackwardTicks = 2;

std::string numbers_text(int ranks, int microbatches, int chunks) {
  return std::to_string(ranks) + " ranks, " + std::to_string(microbatches) + " micro-batches, " +
         std::to_string(chunks) + " chunks";
}

Status check_numbers(std::string_view name, int ranks, int microbatches, int chunks) {
  if (ranks < 1 || microbatches < 1 || chunks < 1) {
    return Status(Code::kInvalidArgument, "schedule " + std::string(name) + " was asked for with " +
                                              numbers_text(ranks, microbatches, chunks) +
                                              "; each of them must be at least 1.");
  }
  if (int64_t{2} * ranks * microbatches > kMaxActions / chunks) {
    return Status(Code::kInvalidArgument, "schedule " + std::string(name) + " with " +
                                              numbers_text(ranks, microbatches, chunks) +
                                              " has more than " + std::to_string(kMaxActions) +
                                              " actions; use fewer micro-batches a step.");
  }
  return ok_status();
}

// When each action of a fixed per-rank order can run at the nominal costs.
class NominalTimes {
 public:
  NominalTimes(int ranks, int microbatches, int chunks)
      : ranks_(ranks),
        microbatches_(microbatches),
        stages_(ranks * chunks),
        end_(size_t{2} * stages_ * microbatches, -1) {}

  int64_t end(Kind kind, int stage, int microbatch) const {
    return end_[index(kind, stage, microbatch)];
  }
  static int64_t ticks(Kind kind) {
    return kind == Kind::kForward ? kForwardTicks : kBackwardTicks;
  }

  Status run(const std::vector<std::vector<Action>>& compute) {
    std::vector<size_t> next(ranks_, 0);
    std::vector<int64_t> free_at(ranks_, 0);
    size_t left = 0;
    for (const auto& order : compute) left += order.size();
    while (left > 0) {
      const size_t before = left;
      for (int rank = 0; rank < ranks_; ++rank) {
        while (next[rank] < compute[rank].size()) {
          const Action& action = compute[rank][next[rank]];
          const int64_t ready = ready_at(action, rank);
          if (ready < 0) break;
          free_at[rank] = std::max(free_at[rank], ready) + ticks(action.kind);
          end_[index(action.kind, action.chunk * ranks_ + rank, action.microbatch)] = free_at[rank];
          ++next[rank];
          --left;
        }
      }
      if (left == before) return stuck(compute, next);
    }
    return ok_status();
  }

 private:
  size_t index(Kind kind, int stage, int microbatch) const {
    const size_t half = kind == Kind::kForward ? 0 : 1;
    return (half * stages_ + stage) * microbatches_ + microbatch;
  }
  // When the inputs of an action are there, or -1 while something has not been computed.
  int64_t ready_at(const Action& action, int rank) const {
    const int stage = action.chunk * ranks_ + rank;
    if (action.kind == Kind::kForward) {
      return stage == 0 ? 0 : end(Kind::kForward, stage - 1, action.microbatch);
    }
    const int64_t own = end(Kind::kForward, stage, action.microbatch);
    if (own < 0 || stage == stages_ - 1) return own;
    const int64_t later = end(Kind::kBackward, stage + 1, action.microbatch);
    return later < 0 ? -1 : std::max(own, later);
  }
  Status stuck(const std::vector<std::vector<Action>>& compute,
               const std::vector<size_t>& next) const {
    std::string text = "this order of work can never finish:";
    for (int rank = 0; rank < ranks_; ++rank) {
      if (next[rank] == compute[rank].size()) continue;
      text += " rank " + std::to_string(rank) + " waits for the input of " +
              describe(compute[rank][next[rank]]) + ";";
    }
    text.back() = '.';
    return Status(Code::kInvalidArgument, text);
  }

  int ranks_;
  int microbatches_;
  int stages_;
  std::vector<int64_t> end_;
};

// One entry of the common order in which all ranks list what happens.
struct Event {
  int64_t time;
  int is_compute;  // at the same time, messages come before the compute that may need them
  int rank;
  Action action;

  auto key() const {
    return std::tuple(time, is_compute, static_cast<int>(action.kind), rank, action.chunk,
                      action.microbatch);
  }
};

void append(std::vector<Step>& steps, const Action& action) {
  const bool joins =
      !steps.empty() && !is_compute(action.kind) && !is_compute(steps.back()[0].kind);
  if (joins) {
    // Listing neighbours as one exchange only lets messages start earlier: no new deadlock.
    steps.back().push_back(action);
  } else {
    steps.push_back({action});
  }
}

// Lists a message that `rank` sends in consequence of `event`, on both sides, if there is one.
void append_message(Schedule& schedule, const Event& event) {
  const Action& action = event.action;
  const bool forward = action.kind == Kind::kForward;
  const int stage = schedule.stage_of(event.rank, action.chunk);
  const int other = forward ? stage + 1 : stage - 1;
  if (other < 0 || other >= schedule.stages()) return;
  const int peer = schedule.rank_of(other);
  if (peer == event.rank) return;
  append(schedule.steps[event.rank], {forward ? Kind::kSendForward : Kind::kSendBackward,
                                      action.microbatch, action.chunk, peer});
  append(schedule.steps[peer], {forward ? Kind::kRecvForward : Kind::kRecvBackward,
                                action.microbatch, schedule.chunk_of(other), event.rank});
}

// The shape shared by 1F1B and its interleaved form: `warmup` forwards, then one forward and one
// backward in turn, then the backwards that are left.
std::vector<Action> alternate(const std::vector<Action>& forwards,
                              const std::vector<Action>& backwards, size_t warmup) {
  std::vector<Action> order(forwards.begin(), forwards.begin() + warmup);
  for (size_t i = warmup; i < forwards.size(); ++i) {
    order.push_back(forwards[i]);
    order.push_back(backwards[i - warmup]);
  }
  order.insert(order.end(), backwards.end() - warmup, backwards.end());
  return order;
}

// Sizes of the rounds in which interleaved 1F1B takes micro-batches: at least `ranks` each (or all
// of them), as even as possible, larger ones first.
std::vector<int> round_sizes(int ranks, int microbatches) {
  const int rounds = std::max(1, microbatches / ranks);
  std::vector<int> sizes(rounds, microbatches / rounds);
  for (int i = 0; i < microbatches % rounds; ++i) ++sizes[i];
  return sizes;
}

// All actions of one kind in interleaved order: round by round, and within a round chunk by chunk,
// ascending for forwards and descending for backwards.
std::vector<Action> chunk_order(Kind kind, const std::vector<int>& rounds, int chunks) {
  std::vector<Action> order;
  int first = 0;
  for (const int size : rounds) {
    for (int i = 0; i < chunks; ++i) {
      const int chunk = kind == Kind::kForward ? i : chunks - 1 - i;
      for (int m = first; m < first + size; ++m) order.push_back({kind, m, chunk, -1});
    }
    first += size;
  }
  return order;
}

}  // namespace

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kForward:
      return "forward";
    case Kind::kBackward:
      return "backward";
    case Kind::kSendForward:
      return "send_forward";
    case Kind::kRecvForward:
      return "recv_forward";
    case Kind::kSendBackward:
      return "send_backward";
    case Kind::kRecvBackward:
      return "recv_backward";
  }
  return "unknown";
}

std::string describe(const Action& action) {
  std::string text = std::string(kind_name(action.kind)) + " of micro-batch " +
                     std::to_string(action.microbatch) + ", chunk " + std::to_string(action.chunk);
  if (!is_compute(action.kind)) {
    text += (is_send(action.kind) ? " to rank " : " from rank ") + std::to_string(action.peer);
  }
  return text;
}

Result<Schedule> with_communication(std::string name, int ranks, int microbatches, int chunks,
                                    const std::vector<std::vector<Action>>& compute) {
  CONVOY_RETURN_IF_ERROR(check_numbers(name, ranks, microbatches, chunks));
  CONVOY_CHECK(compute.size() == static_cast<size_t>(ranks), "one order of work for each rank");
  NominalTimes times(ranks, microbatches, chunks);
  CONVOY_RETURN_IF_ERROR(times.run(compute).with_context(name));

  Schedule schedule{std::move(name), ranks, microbatches, chunks, {}, {}};
  schedule.steps.resize(ranks);
  std::vector<Event> events;
  for (int rank = 0; rank < ranks; ++rank) {
    for (const Action& action : compute[rank]) {
      const int64_t end =
          times.end(action.kind, schedule.stage_of(rank, action.chunk), action.microbatch);
      events.push_back({end - NominalTimes::ticks(action.kind), 1, rank, action});
      events.push_back({end, 0, rank, action});
    }
  }
  std::sort(events.begin(), events.end(),
            [](const Event& a, const Event& b) { return a.key() < b.key(); });
  for (const Event& event : events) {
    if (event.is_compute) {
      append(schedule.steps[event.rank], event.action);
    } else {
      append_message(schedule, event);
    }
  }
  schedule.max_activations.assign(ranks, microbatches * chunks);
  return schedule;
}

Result<Schedule> gpipe(int ranks, int microbatches) {
  CONVOY_RETURN_IF_ERROR(check_numbers("gpipe", ranks, microbatches, 1));
  std::vector<Action> order = chunk_order(Kind::kForward, {microbatches}, 1);
  const std::vector<Action> backwards = chunk_order(Kind::kBackward, {microbatches}, 1);
  order.insert(order.end(), backwards.begin(), backwards.end());
  return with_communication("gpipe", ranks, microbatches, 1,
                            std::vector<std::vector<Action>>(ranks, order));
}

Result<Schedule> one_f_one_b(int ranks, int microbatches) {
  CONVOY_RETURN_IF_ERROR(check_numbers("1f1b", ranks, microbatches, 1));
  const std::vector<Action> forwards = chunk_order(Kind::kForward, {microbatches}, 1);
  const std::vector<Action> backwards = chunk_order(Kind::kBackward, {microbatches}, 1);
  std::vector<std::vector<Action>> compute;
  for (int rank = 0; rank < ranks; ++rank) {
    compute.push_back(alternate(forwards, backwards, std::min(microbatches, ranks - rank - 1)));
  }
  CONVOY_ASSIGN_OR_RETURN(Schedule schedule,
                          with_communication("1f1b", ranks, microbatches, 1, compute));
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.max_activations[rank] = std::min(microbatches, ranks - rank);
  }
  return schedule;
}

Result<Schedule> interleaved_1f1b(int ranks, int microbatches, int chunks) {
  CONVOY_RETURN_IF_ERROR(check_numbers("interleaved", ranks, microbatches, chunks));
  if (chunks == 1) {
    CONVOY_ASSIGN_OR_RETURN(Schedule plain, one_f_one_b(ranks, microbatches));
    plain.name = "interleaved";
    return plain;
  }
  const std::vector<int> rounds = round_sizes(ranks, microbatches);
  const std::vector<Action> forwards = chunk_order(Kind::kForward, rounds, chunks);
  const std::vector<Action> backwards = chunk_order(Kind::kBackward, rounds, chunks);
  const int total = microbatches * chunks;
  std::vector<int> bounds;
  std::vector<std::vector<Action>> compute;
  for (int rank = 0; rank < ranks; ++rank) {
    // Megatron's warm-up, with the largest round in the place of the number of ranks.
    const int warmup = std::min(total, 2 * (ranks - rank - 1) + (chunks - 1) * rounds[0]);
    compute.push_back(alternate(forwards, backwards, warmup));
    bounds.push_back(std::min(total, warmup + 1));
  }
  CONVOY_ASSIGN_OR_RETURN(Schedule schedule,
                          with_communication("interleaved", ranks, microbatches, chunks, compute));
  schedule.max_activations = bounds;
  return schedule;
}

Result<Schedule> make_schedule(std::string_view name, int ranks, int microbatches, int chunks) {
  if (name == "interleaved" || name == "interleaved_1f1b") {
    return interleaved_1f1b(ranks, microbatches, chunks);
  }
  if (name != "gpipe" && name != "1f1b") {
    return Status(Code::kInvalidArgument, "there is no pipeline schedule named '" +
                                              std::string(name) +
                                              "'; use gpipe, 1f1b or interleaved.");
  }
  if (chunks != 1) {
    return Status(Code::kInvalidArgument,
                  "schedule " + std::string(name) + " has one chunk on each rank, but " +
                      std::to_string(chunks) +
                      " were asked for; use 1 chunk, or the schedule interleaved.");
  }
  return name == "gpipe" ? gpipe(ranks, microbatches) : one_f_one_b(ranks, microbatches);
}

}  // namespace convoy::schedule
