#pragma once

#include "src/comm/host/tcp_loop.h"
#include "src/comm/host/tcp_socket.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

namespace convoy::host {

// Opens with every connection: who calls whom, and for which of the group's streams. 64 bytes,
// little endian, of fixed size, so that no length field can lie.
struct Hello {
  uint64_t token_high = 0;  // the secret of the called rank, read from the store
  uint64_t token_low = 0;
  uint32_t from = 0;    // the caller's rank in the group
  uint32_t to = 0;      // the called rank
  uint32_t stream = 0;  // index of the connection between these two

  static constexpr size_t kBytes = 64;
  void encode(char (&bytes)[kBytes]) const;
  // Fails on another magic, version or garbage in the reserved part; the text says which.
  static Result<Hello> decode(const char (&bytes)[kBytes]);
};

// One process's door for the ranks of link groups: a listener for other machines, one for this
// machine, and the I/O thread that serves them and the control connections of all link groups.
// Owned by the Node; costs nothing until start(). Thread-safe. Strangers (nonsense, an unknown
// secret, silence) are dropped and logged; they touch no group.
class TcpEndpoint {
 public:
  // As in NodeOptions; `address` empty: found at start(), see tcp_socket.h.
  explicit TcpEndpoint(std::string address = "");
  ~TcpEndpoint();
  TcpEndpoint(const TcpEndpoint&) = delete;
  TcpEndpoint& operator=(const TcpEndpoint&) = delete;

  // Binds, listens and starts the thread, once; later calls return the first outcome.
  Status start();
  // Where peers on other machines connect to, and those on this one; valid after start() succeeded.
  const TcpAddress& address() const { return address_; }
  const TcpAddress& local_address() const { return local_address_; }
  TcpLoop& loop() { return loop_; }

  // A connection that presented the secret, greeted and answered. Called on the I/O thread.
  using Accepted = std::function<void(const Hello& hello, UniqueFd fd)>;
  // Makes this endpoint accept connections with a fresh secret, returned in `hello`'s token fields,
  // until forget(). After forget() returned, `accepted` does not run any more.
  Hello expect(Accepted accepted);
  void forget(const Hello& token);

 private:
  struct Guest;  // a connection that has not shown its secret yet
  void accept_guests(int listener);
  void read_hello(const std::shared_ptr<Guest>& guest);
  void drop(const std::shared_ptr<Guest>& guest, const std::string& why);

  const std::string wanted_;
  std::mutex start_mutex_;
  bool started_ = false;
  Status start_status_;
  TcpAddress address_, local_address_;
  UniqueFd listener_, local_listener_;
  // I/O thread only:
  std::map<std::pair<uint64_t, uint64_t>, std::shared_ptr<Accepted>> expected_;
  std::set<std::shared_ptr<Guest>> guests_;
  TcpLoop loop_;  // last: its thread ends before what it uses
};

// Connects to `address`, sends `hello` and waits for the answer. Tries again while nobody listens,
// until the deadline. The error names the address; the caller adds the rank.
Result<UniqueFd> tcp_connect(const TcpAddress& address, const Hello& hello, Deadline deadline);

}  // namespace convoy::host
