#pragma once

#include "src/comm/host/heap.h"
#include "src/comm/host/tcp_endpoint.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/comm/host/node.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <thread>
#include <vector>

namespace convoy::host {

// What a rank publishes about itself in the store, under "<group name>/<rank>".
struct Endpoint {
  std::string host;    // ranks with equal text share memory; see NodeImpl::host_id()
  std::string socket;  // name of the node's abstract unix socket
  pid_t pid = 0;
  uint64_t heap_bytes = 0;   // size of its heap's descriptor
  uint64_t area_offset = 0;  // rank 0: where the group's control area lies in its heap
  int tcp_streams = 1;       // connections that it wants with each rank of a link group

  std::string encode() const;
  static Result<Endpoint> decode(std::string_view text);
};

// Cores that this process may run on.
int available_cores();

// A peer process of this machine, as this process sees it. Shared by all groups both are in.
struct Peer {
  std::string socket;
  pid_t pid = 0;
  std::shared_ptr<HeapMapping> heap;  // its heap, mapped here
  std::atomic<bool> gone{false};      // its process ended, or its node was destroyed
  UniqueFd connection;                // end of file when its node goes; empty for our own process
  UniqueFd process;                   // pidfd, readable when the process ends; may be empty
};

// Whoever must hear that a peer is gone. Called on the watcher thread; must not block.
class PeerListener {
 public:
  virtual ~PeerListener() = default;
  virtual void peer_gone(const Peer& peer) = 0;
  // The process ends through exit(): the last chance to say that we leave.
  virtual void process_exits() = 0;
};

class NodeImpl final : public Node {
 public:
  static Result<std::shared_ptr<NodeImpl>> make(const NodeOptions& options);
  NodeImpl() = default;
  ~NodeImpl() override;

  SharedHeap& heap() override { return *heap_; }
  Heap& own_heap() { return *heap_; }
  const NodeOptions& options() const { return options_; }
  // NodeOptions::host_id, else CONVOY_HOST_ID, else boot id and network namespace: these are equal
  // for two processes exactly when they can reach each other's abstract sockets, hence share
  // memory.
  const std::string& host_id() const { return host_id_; }
  const std::string& socket_name() const { return socket_name_; }

  // The peer behind `endpoint`, mapped and watched; made on first use.
  Result<std::shared_ptr<Peer>> connect(const Endpoint& endpoint, Deadline deadline);
  void add_listener(PeerListener* listener);
  // After it returns the listener is not called any more.
  void remove_listener(PeerListener* listener);

  // Memory that peers may still read although its group is gone: `is_free` is asked now and then
  // and, once it says yes, the block returns to the heap.
  void free_later(void* block, std::function<bool()> is_free);

  // The door for ranks on other machines. It opens with the first group that needs it.
  TcpEndpoint& links() { return *links_; }
  int tcp_streams() const;

 private:
  friend class Node;
  Status start();
  Status watch_fd(int fd);
  Status connect_process(const Endpoint& endpoint, Deadline deadline, Peer& peer);
  void watch();
  void accept_peers();
  std::shared_ptr<Peer> hear_end(int fd);
  void process_exits();

  NodeOptions options_;
  std::string host_id_;
  std::string socket_name_;
  std::shared_ptr<Heap> heap_;
  std::unique_ptr<TcpEndpoint> links_;
  UniqueFd listener_;
  UniqueFd epoll_;
  UniqueFd stop_;
  std::thread watcher_;

  std::mutex connect_mutex_;  // one connection at a time, so that a peer is mapped once
  std::mutex mutex_;          // guards peers_, accepted_, leftovers_
  std::map<std::string, std::shared_ptr<Peer>> peers_;
  std::map<int, UniqueFd> accepted_;  // connections of peers that map our heap
  std::mutex listeners_mutex_;        // held while listeners are called
  std::vector<PeerListener*> listeners_;
  struct Leftover {
    void* block;
    std::function<bool()> is_free;
  };
  std::vector<Leftover> leftovers_;
};

}  // namespace convoy::host
