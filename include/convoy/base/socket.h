#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <string>
#include <sys/socket.h>
#include <sys/un.h>

namespace convoy {

// A TCP socket that listens on `port` of every address of this machine (0: the kernel chooses).
// A port that another program listens on: kAlreadyExists. Closed on exec.
Result<UniqueFd> listen_tcp(uint16_t port);
// The port that a bound socket has.
Result<uint16_t> bound_port(int socket);
// A port nobody listens on, below the range that the kernel hands to outgoing connections, so that
// it stays free until the program that will listen there has started.
Result<uint16_t> free_port();

// The abstract unix socket `name`: it has no file, and goes with its process. Returns the length.
socklen_t abstract_address(const std::string& name, sockaddr_un* address);
// 128 random bits in hex, for names that nobody else has.
std::string random_hex();

// This machine's name, as other machines of the cluster would call it.
std::string host_name();

}  // namespace convoy
