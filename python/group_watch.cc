#include "python/group_watch.h"

#include <convoy/base/log.h>
#include <convoy/base/vitals.h>
#include <convoy/comm/nccl.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <filesystem>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <utility>

namespace convoy::python {
namespace {

// Of the hooks; after the tracer's.
constexpr int64_t kHookId = 0x634f4e564f590001;

// The inode if this is a TCP connection, else 0. Not one that listens: Gloo ends the process when
// that is cut.
uint64_t tcp_inode(int fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) return 0;
  size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) return 0;
  if (domain != AF_INET && domain != AF_INET6) return 0;
  int listens = 0;
  size = sizeof listens;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens != 0) return 0;
  struct stat about {};
  return ::fstat(fd, &about) == 0 ? about.st_ino : 0;
}

void for_each_socket(const std::function<void(int fd, uint64_t inode)>& call) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const std::string name = entry.path().filename().string();
    int fd = -1;
    std::from_chars(name.data(), name.data() + name.size(), fd);
    if (const uint64_t inode = tcp_inode(fd); inode != 0) call(fd, inode);
  }
}

std::vector<c10::intrusive_ptr<c10d::Backend>> backends_of(c10d::ProcessGroup& group) {
  std::vector<c10::intrusive_ptr<c10d::Backend>> all;
  for (const c10::Device& device : group.getDeviceTypes()) {
    auto backend = group.getBackend(device.type());
    if (std::find(all.begin(), all.end(), backend) == all.end()) all.push_back(std::move(backend));
  }
  return all;
}

// torch has two classes for NCCL.
bool has(const char* kind, c10d::ProcessGroup& group) {
  const auto backends = backends_of(group);
  return std::any_of(backends.begin(), backends.end(),
                     [&](const auto& b) { return b->getBackendName().starts_with(kind); });
}

}  // namespace

struct GroupWatch::Pending {
  std::mutex mutex;
  uint32_t count = 0;
  bool is_over = false;  // its groups have been left

  void add(bool began) {
    const std::lock_guard lock(mutex);
    if (is_over || (!began && count == 0)) return;
    count += began ? 1 : -1;
    vitals().waiting.fetch_add(began ? 1 : -1, std::memory_order_relaxed);
  }
  void end() {
    const std::lock_guard lock(mutex);
    vitals().waiting.fetch_sub(count, std::memory_order_relaxed);
    is_over = true;
  }
};

std::set<uint64_t> GroupWatch::sockets() {
  std::set<uint64_t> all;
  for_each_socket([&](int, uint64_t inode) { all.insert(inode); });
  return all;
}

void GroupWatch::add(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                     const std::set<uint64_t>& before) {
  const std::lock_guard lock(mutex_);
  if (!pending_) pending_ = std::make_shared<Pending>();
  count(*group, pending_);
  groups_.push_back(group);
  if (!has("gloo", *group)) return;
  for (const uint64_t inode : sockets()) {
    if (!before.contains(inode)) connections_.insert(inode);
  }
}

// The backend `convoy` shows by itself when it waits.
void GroupWatch::count(c10d::ProcessGroup& group, const std::shared_ptr<Pending>& pending) {
  bool by_hooks = false, by_future = false;
  for (const auto& backend : backends_of(group)) {
    if (backend->getBackendName() == "convoy") continue;
    if (backend->supportsCompletionHooks()) {
      by_hooks = true;
      backend->registerCompletionHook(
          kHookId, [pending](const c10d::CompletionHookArgs&) { pending->add(false); });
    } else if (backend->getBackendName() == "gloo") {
      by_future = true;
    }
  }
  // A group of several backends tells not which one an operation is of.
  if (by_hooks == by_future) return;
  group.registerPostHook(kHookId, [pending, by_future](const c10d::PostHookArgs& args) {
    const bool is_message =
        args.name == c10d::HookOpName::SEND || args.name == c10d::HookOpName::RECV;
    if (!args.work || (by_future && is_message)) return;  // Gloo's messages have no future
    pending->add(true);
    if (by_future) args.work->getFuture()->addCallback([pending](auto&) { pending->add(false); });
  });
}

void GroupWatch::abort() {
  const std::lock_guard lock(mutex_);
  const auto abort_all = [&] {
    for (const auto& group : groups_) {
      try {
        group->abort();
      } catch (const std::exception& error) {
        CONVOY_LOG(Debug) << "a group can't be aborted: " << error.what();
      }
    }
  };
  try {
    const bool any_nccl = std::any_of(groups_.begin(), groups_.end(),
                                      [](const auto& group) { return has("nccl", *group); });
    any_nccl ? comm::abort_together(abort_all) : abort_all();
  } catch (const std::exception& error) {
    CONVOY_LOG(Debug) << "groups can't be aborted together: " << error.what();
  }
  if (connections_.empty()) return;
  for_each_socket([this](int fd, uint64_t inode) {
    if (connections_.contains(inode)) ::shutdown(fd, SHUT_RDWR);
  });
}

void GroupWatch::clear() {
  std::vector<c10::intrusive_ptr<c10d::ProcessGroup>> gone;
  const std::lock_guard lock(mutex_);
  gone.swap(groups_);
  connections_.clear();
  if (pending_) pending_->end();
  pending_.reset();
}

}  // namespace convoy::python
