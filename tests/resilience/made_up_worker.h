#pragma once

#include "src/resilience/protocol/messages.pb.h"

#include <cstdint>

namespace convoy::resilience {

// A worker that does what the supervisor tells it, one thing at a time.
struct MadeUpWorker {
  int rank = -1;
  bool joined = false;
  uint64_t generation = 0;
  bool must_get_ready = false, must_step = false, must_hold = false;

  bool is_due() const { return !joined || must_get_ready || must_step || must_hold; }
  // Does the next thing that is due, and what its node says of that. `step`: the job's newest.
  proto::FromNode act(uint64_t id, int64_t& step) {
    proto::FromNode message;
    message.mutable_said()->set_worker(id);
    proto::FromWorker& what = *message.mutable_said()->mutable_what();
    if (!joined) {
      joined = true;
      what.mutable_hello()->set_worker(id);
    } else if (must_get_ready) {
      must_get_ready = false;
      what.mutable_ready()->set_generation(generation);
    } else if (must_hold && !must_step) {
      must_hold = false;
      what.mutable_trouble()->set_generation(generation);
      what.mutable_trouble()->set_is_held(true);
    } else {
      must_step = false;
      what.mutable_running()->set_generation(generation);
      what.mutable_running()->set_step(++step);
      what.mutable_running()->set_resumed(step - 1);
    }
    return message;
  }
};

}  // namespace convoy::resilience
