// How the processes of one machine find each other's memory, and notice each other's end. Each node
// listens on an abstract unix socket whose name (128 random bits, published in the store) is the
// secret; whoever connects under the same user gets the heap's descriptor. Nothing has a name in a
// file system, so nothing can be left behind.
#include "src/comm/host/node_impl.h"
#include <convoy/base/check.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace convoy::host {
namespace {

constexpr int kBacklog = 512;  // connections that may wait while the watcher is busy
constexpr int kEventsAtOnce = 32;
constexpr char kGreeting = 'C';  // the byte that carries the descriptor
constexpr int kCoresPerStream = 2;
constexpr int kStreamsMax = 4;
constexpr std::string_view kVersion = "2";  // of Endpoint's text

std::string machine_identity() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat network {};
  const bool found = stat("/proc/self/ns/net", &network) == 0;
  // A test that plays several machines on one names them by CONVOY_HOST_ID.
  const char* pretended = std::getenv("CONVOY_HOST_ID");
  return boot + "/" + (found ? std::to_string(network.st_ino) : "?") +
         (pretended != nullptr ? std::string("/") + pretended : "");
}

Status send_descriptor(int socket, int fd) {
  char byte = kGreeting;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1) {
    return errno_status("handing out the shared heap", errno);
  }
  return ok_status();
}

Result<UniqueFd> receive_descriptor(int socket) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return errno_status("receiving a peer's shared heap", errno);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (got == 0 || byte != kGreeting || header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return Status(Code::kUnavailable, "the peer closed the connection without its shared heap");
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return UniqueFd(fd);
}

ucred credentials(int socket) {
  ucred peer{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  socklen_t size = sizeof peer;
  getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size);
  return peer;
}

timeval to_timeval(Nanos time) {
  const auto us = std::clamp<int64_t>(time.count() / 1000, 1000, 3600LL * 1000000);
  return {static_cast<time_t>(us / 1000000), static_cast<suseconds_t>(us % 1000000)};
}

// The heaps of this process. Ranks that are threads of one process share one address for each, so
// that the thread sanitizer sees them touch the same memory.
struct OwnHeaps {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<HeapMapping>> by_socket;
};

OwnHeaps& own_heaps() {
  static auto* heaps = new OwnHeaps;
  return *heaps;
}

}  // namespace

std::string Endpoint::encode() const {
  std::ostringstream text;
  text << kVersion << '\n'
       << host << '\n'
       << socket << '\n'
       << pid << '\n'
       << heap_bytes << '\n'
       << area_offset << '\n'
       << tcp_streams;
  return text.str();
}

Result<Endpoint> Endpoint::decode(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::string version;
  Endpoint e;
  std::getline(in, version);
  if (version != kVersion) {
    return Status(Code::kMismatch, "a rank's record in the store has version '" + version +
                                       "', this build reads " + std::string(kVersion) +
                                       "; use one Convoy build on all ranks");
  }
  std::getline(in, e.host);
  std::getline(in, e.socket);
  in >> e.pid >> e.heap_bytes >> e.area_offset >> e.tcp_streams;
  if (!in || e.tcp_streams < 1) {
    return Status(Code::kDataLoss, "a rank's record in the store is cut short");
  }
  return e;
}

Result<std::shared_ptr<Node>> Node::create(const NodeOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(auto node, NodeImpl::make(options));
  return std::shared_ptr<Node>(std::move(node));
}

Result<std::shared_ptr<Node>> Node::process_wide() {
  // Leaked: groups and tensors may outlive every static.
  static auto* instance = new Result<std::shared_ptr<NodeImpl>>([] {
    auto made = NodeImpl::make({});
    if (made.ok()) {
      static NodeImpl* node = made->get();
      std::atexit([] { node->process_exits(); });
    }
    return made;
  }());
  if (!instance->ok()) return instance->status();
  return std::shared_ptr<Node>(instance->value());
}

Result<std::shared_ptr<NodeImpl>> NodeImpl::make(const NodeOptions& options) {
  auto node = std::make_shared<NodeImpl>();
  node->options_ = options;
  CONVOY_RETURN_IF_ERROR(node->start().with_context("making this process's communication node"));
  return node;
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// One connection is fastest when the two ends have a core each; several use the cores of a large
// machine.
int NodeImpl::tcp_streams() const {
  if (options_.tcp_streams > 0) return options_.tcp_streams;
  return std::clamp(available_cores() / kCoresPerStream, 1, kStreamsMax);
}

Status NodeImpl::start() {
  CONVOY_ASSIGN_OR_RETURN(heap_, Heap::create(options_.heap_bytes));
  host_id_ = options_.host_id;
  if (const char* id = std::getenv("CONVOY_HOST_ID"); id != nullptr && host_id_.empty()) {
    host_id_ = id;
  }
  if (host_id_.empty()) host_id_ = machine_identity();
  links_ = std::make_unique<TcpEndpoint>(options_.address);
  socket_name_ = "convoy-" + random_hex();
  listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address;
  const socklen_t size = abstract_address(socket_name_, &address);
  if (!listener_ || bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener_.get(), kBacklog) != 0) {
    return errno_status("listening on a unix socket", errno);
  }
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  stop_.reset(eventfd(0, EFD_CLOEXEC));
  if (!epoll_ || !stop_) return errno_status("making an epoll instance", errno);
  CONVOY_RETURN_IF_ERROR(watch_fd(listener_.get()));
  CONVOY_RETURN_IF_ERROR(watch_fd(stop_.get()));
  {
    const std::lock_guard lock(own_heaps().mutex);
    own_heaps().by_socket[socket_name_] = heap_->mapping();
  }
  watcher_ = std::thread([this] { watch(); });
  return ok_status();
}

NodeImpl::~NodeImpl() {
  links_.reset();
  if (watcher_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
    watcher_.join();
  }
  const std::lock_guard lock(own_heaps().mutex);
  own_heaps().by_socket.erase(socket_name_);
}

Status NodeImpl::watch_fd(int fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return errno_status("watching a descriptor", errno);
  }
  return ok_status();
}

Result<std::shared_ptr<Peer>> NodeImpl::connect(const Endpoint& endpoint, Deadline deadline) {
  const std::lock_guard lock(connect_mutex_);
  {
    const std::lock_guard peers_lock(mutex_);
    if (auto known = peers_.find(endpoint.socket); known != peers_.end()) return known->second;
  }
  auto peer = std::make_shared<Peer>();
  peer->socket = endpoint.socket;
  peer->pid = endpoint.pid;
  {
    const std::lock_guard own_lock(own_heaps().mutex);
    auto own = own_heaps().by_socket.find(endpoint.socket);
    if (own != own_heaps().by_socket.end() && endpoint.pid == getpid()) {
      peer->heap = own->second.lock();
    }
  }
  if (peer->heap == nullptr) CONVOY_RETURN_IF_ERROR(connect_process(endpoint, deadline, *peer));
  const std::lock_guard peers_lock(mutex_);
  peers_[endpoint.socket] = peer;
  if (peer->connection) CONVOY_RETURN_IF_ERROR(watch_fd(peer->connection.get()));
  if (peer->process) CONVOY_RETURN_IF_ERROR(watch_fd(peer->process.get()));
  return peer;
}

// Fills in what another process's heap needs: its mapping, and the descriptors that tell its end.
Status NodeImpl::connect_process(const Endpoint& endpoint, Deadline deadline, Peer& peer) {
  const std::string who = "process " + std::to_string(endpoint.pid);
  peer.connection.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!peer.connection) return errno_status("making a unix socket", errno);
  const timeval limit = to_timeval(deadline.left());
  setsockopt(peer.connection.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(peer.connection.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  sockaddr_un address;
  const socklen_t size = abstract_address(endpoint.socket, &address);
  if (::connect(peer.connection.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    return Status(Code::kUnavailable, "can't connect to " + who +
                                          " of this machine, which published its record and is "
                                          "gone since: " +
                                          std::strerror(errno));
  }
  const ucred owner = credentials(peer.connection.get());
  if (owner.uid != geteuid()) {
    return Status(Code::kUnavailable, who +
                                          " belongs to another user; run all ranks of a machine "
                                          "under one user");
  }
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd heap, receive_descriptor(peer.connection.get()));
  CONVOY_ASSIGN_OR_RETURN(peer.heap, HeapMapping::map(heap.get(), endpoint.heap_bytes));
  // A connection alone is not enough: a child that the peer forked keeps it open after the peer's
  // death. The process's own descriptor tells the truth (pid 0: it is in another pid namespace).
  if (owner.pid > 0) {
    peer.process.reset(static_cast<int>(syscall(SYS_pidfd_open, owner.pid, 0)));
    peer.pid = owner.pid;  // as this process's pid namespace numbers it
  }
  return ok_status();
}

void NodeImpl::watch() {
  epoll_event events[kEventsAtOnce];
  std::vector<std::shared_ptr<Peer>> ended;  // keeps descriptor numbers taken for the whole batch
  for (;;) {
    ended.clear();
    const int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == stop_.get()) return;
      if (fd == listener_.get()) {
        accept_peers();
      } else {
        if (auto peer = hear_end(fd)) ended.push_back(std::move(peer));
      }
    }
  }
}

void NodeImpl::accept_peers() {
  for (;;) {
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) return;
    if (credentials(fd.get()).uid != geteuid()) continue;
    const Status sent = send_descriptor(fd.get(), heap_->fd());
    if (!sent.ok() || !watch_fd(fd.get()).ok()) {
      CONVOY_LOG(Warn) << "a peer could not be served: " << sent.to_string();
      continue;
    }
    const std::lock_guard lock(mutex_);
    const int key = fd.get();
    accepted_[key] = std::move(fd);
  }
}

// `fd` became readable: a connection's end of file, or a process's end. Returns the peer, if any.
std::shared_ptr<Peer> NodeImpl::hear_end(int fd) {
  std::shared_ptr<Peer> gone;
  {
    const std::lock_guard lock(mutex_);
    if (accepted_.erase(fd) != 0) return nullptr;
    for (auto it = peers_.begin(); it != peers_.end(); ++it) {
      Peer& peer = *it->second;
      if (peer.connection.get() != fd && peer.process.get() != fd) continue;
      gone = it->second;
      for (const UniqueFd* watched : {&peer.connection, &peer.process}) {
        if (*watched) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched->get(), nullptr);
      }
      peers_.erase(it);
      break;
    }
  }
  if (gone == nullptr) return nullptr;
  gone->gone.store(true);
  const std::lock_guard lock(listeners_mutex_);
  for (PeerListener* listener : listeners_) listener->peer_gone(*gone);
  return gone;
}

void NodeImpl::process_exits() {
  const std::lock_guard lock(listeners_mutex_);
  for (PeerListener* listener : listeners_) listener->process_exits();
}

void NodeImpl::add_listener(PeerListener* listener) {
  const std::lock_guard lock(listeners_mutex_);
  listeners_.push_back(listener);
}

void NodeImpl::remove_listener(PeerListener* listener) {
  const std::lock_guard lock(listeners_mutex_);
  std::erase(listeners_, listener);
}

void NodeImpl::free_later(void* block, std::function<bool()> is_free) {
  const std::lock_guard lock(mutex_);
  leftovers_.push_back({block, std::move(is_free)});
  std::erase_if(leftovers_, [this](const Leftover& leftover) {
    if (!leftover.is_free()) return false;
    heap_->deallocate(leftover.block);
    return true;
  });
}

}  // namespace convoy::host
