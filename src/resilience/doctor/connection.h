#pragma once

#include "src/resilience/doctor/wire.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/resilience/doctor.h>

#include <cstddef>

// The connecting side of wire.h. Nothing waits beyond the deadline that it is given.
namespace convoy::resilience {

class Connection {
 public:
  // Tries each address of the peer's name.
  static Result<Connection> open(const Peer& peer, Deadline deadline);

  Status send(const Header& header, Deadline deadline);
  Result<Header> receive(Deadline deadline);
  // At most `bytes`; how many went through at once, 0 when the deadline has passed. A closed
  // connection is kUnavailable.
  Result<size_t> send_some(const char* from, size_t bytes, Deadline deadline);
  Result<size_t> receive_some(char* to, size_t bytes, Deadline deadline);
  int fd() const { return fd_.get(); }

 private:
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace convoy::resilience
