#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

// Remote calls between processes of a job, over gRPC. This module knows no domain: a message is a
// header (the caller's, usually an encoded protobuf message) and a body of plain bytes, which is
// not copied on its way into the socket.
namespace convoy::rpc {

// PEM files. All empty: no encryption, for a network that only the cluster's users reach.
struct TlsFiles {
  std::string certificate;  // this side's; a server's is required, a client's is shown if given
  std::string key;
  std::string roots;  // that sign the other side's; a server with roots demands a certificate
  bool empty() const { return certificate.empty() && key.empty() && roots.empty(); }
};

// What both sides of a connection agree on.
struct ConnectionOptions {
  // Each call carries it, and a server refuses others: keeps strangers and old jobs out, but is no
  // secret from who reads the network; use TLS there.
  std::string token;
  TlsFiles tls;
  size_t message_bytes_max = size_t{64} << 20;
  // A peer that vanishes without a word (power, cable) is noticed after the sum of the two.
  Nanos keepalive = std::chrono::seconds(10);
  Nanos keepalive_timeout = std::chrono::seconds(10);
};

struct Message {
  std::string header;
  std::vector<std::span<const std::byte>> body = {};
  std::shared_ptr<const void> owner = {};  // keeps the body alive until it has been sent
};

// A message that has come. Moved, not copied.
class Received {
 public:
  struct Body;  // gRPC's memory
  Received(std::string header, std::unique_ptr<Body> body);
  Received(Received&&) noexcept;
  Received& operator=(Received&&) noexcept;
  ~Received();

  const std::string& header() const { return header_; }
  size_t body_bytes() const;
  // Copies the body; `to` has room for body_bytes().
  void copy_body(std::byte* to) const;

 private:
  std::string header_;
  std::unique_ptr<Body> body_;
};

}  // namespace convoy::rpc
