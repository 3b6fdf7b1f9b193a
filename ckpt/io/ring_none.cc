// Takes the place of ring_queue.cc where Convoy was built without liburing.
#include "ckpt/io/io_queue.h"

namespace convoy::ckpt {

std::unique_ptr<IoQueue> make_ring_queue(unsigned /*depth*/, std::string& why_not) {
  why_not = "Convoy was built without liburing";
  return nullptr;
}

}  // namespace convoy::ckpt
