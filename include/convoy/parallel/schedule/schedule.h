#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Pipeline schedules as plain data. Pure: no threads, no tensors, no communication happens here. A
// builder says what every pipeline rank does in which order; validate.h proves it; the pipeline
// runtime merely executes it.
//
// A model is cut into `ranks * chunks` stages. Stage s runs on rank s % ranks as that rank's chunk
// s / ranks (chunks > 1 are Megatron's virtual stages, arXiv 2104.04473).
namespace convoy::schedule {

enum class Kind : uint8_t {
  kForward,
  kBackward,
  kSendForward,   // the output of this chunk's forward, to the rank of the next stage
  kRecvForward,   // the input of this chunk's forward, from the rank of the previous stage
  kSendBackward,  // the gradient of this chunk's input, to the rank of the previous stage
  kRecvBackward,  // the gradient of this chunk's output, from the rank of the next stage
};

std::string_view kind_name(Kind kind);  // "forward", "send_forward", …
inline bool is_compute(Kind kind) {
  return kind == Kind::kForward || kind == Kind::kBackward;
}
inline bool is_send(Kind kind) {
  return kind == Kind::kSendForward || kind == Kind::kSendBackward;
}

// One thing that a rank does for one micro-batch of one of its chunks.
struct Action {
  Kind kind = Kind::kForward;
  int microbatch = 0;
  int chunk = 0;
  int peer = -1;  // pipeline rank at the other end; -1 for compute

  bool operator==(const Action&) const = default;
};

// Either one compute action, or an exchange: communications that are all started before any is
// waited for. An executor may wait for a receive as late as the compute that uses it, and for a
// send at any later time: every schedule that validate() accepts runs under all of these, up to the
// strictest, in which a rank leaves an exchange only when all its sends have been received.
// Messages from one rank to another match in the order in which they are listed, without tags.
using Step = std::vector<Action>;

struct Schedule {
  std::string name;
  int ranks = 1;
  int microbatches = 1;
  int chunks = 1;
  std::vector<std::vector<Step>> steps;  // [ranks], each in the order of execution
  // [ranks] the promise: forwards whose backward has not run, counted in chunks, never exceed this.
  std::vector<int> max_activations;

  int stages() const { return ranks * chunks; }
  int stage_of(int rank, int chunk) const { return chunk * ranks + rank; }
  int rank_of(int stage) const { return stage % ranks; }
  int chunk_of(int stage) const { return stage / ranks; }
};

// "forward of micro-batch 3, chunk 1", with "to rank 2" or "from rank 2" for communications.
std::string describe(const Action& action);

// In all three, each chunk runs its backwards in the order of the micro-batches 0, 1, …, so that
// gradients accumulate in the same order and results are equal bit for bit between schedules.
// Neighbouring stages on one rank (ranks == 1) hand over locally: no communication is listed.

// All forwards, then all backwards. Rank r holds up to `microbatches` activations.
Result<Schedule> gpipe(int ranks, int microbatches);

// One forward, one backward (PipeDream-flush). Rank r holds up to min(microbatches, ranks - r).
Result<Schedule> one_f_one_b(int ranks, int microbatches);

// Megatron's interleaved 1F1B. Micro-batches go in rounds of g = ceil(microbatches / rounds) or one
// less, rounds = max(1, microbatches / ranks), so any number of micro-batches works; where it is a
// multiple of ranks, g = ranks and the order is Megatron's. Rank r holds up to
// min(microbatches * chunks, 2 (ranks - r - 1) + (chunks - 1) g + 1) chunk activations. With one
// chunk it is one_f_one_b().
Result<Schedule> interleaved_1f1b(int ranks, int microbatches, int chunks);

// The builder by name: "gpipe", "1f1b" or "interleaved" ("interleaved_1f1b" too). kInvalidArgument
// for another name, a number below 1 or above the limits, or chunks > 1 where the schedule has
// none.
Result<Schedule> make_schedule(std::string_view name, int ranks, int microbatches, int chunks = 1);

// Adds explicit communication to what each rank computes. `compute[r]` lists rank r's forward and
// backward actions in order; sends follow what produced them, receives stand where the message can
// first be there. All ranks list messages in one common order, so the result cannot deadlock even
// where sends wait for their receiver. kInvalidArgument if the order itself cannot run.
Result<Schedule> with_communication(std::string name, int ranks, int microbatches, int chunks,
                                    const std::vector<std::vector<Action>>& compute);

}  // namespace convoy::schedule
