// The I/O thread: one epoll, one queue of posted functions, one list of timers. What the handlers
// do is decided elsewhere.
#include "src/comm/host/tcp_loop.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace convoy::host {
namespace {

constexpr int kEventsMax = 64;

void wake(int fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
}

}  // namespace

TcpLoop::~TcpLoop() {
  stop();
}

Status TcpLoop::start() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return errno_status("creating an epoll for the I/O thread", errno);
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return errno_status("creating an eventfd for the I/O thread", errno);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return errno_status("watching the I/O thread's eventfd", errno);
  }
  stopping_ = false;
  thread_ = std::thread([this] { main(); });
  return ok_status();
}

void TcpLoop::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ && !thread_.joinable()) return;
    stopping_ = true;
    wake(wake_.get());
  }
  thread_.join();
}

void TcpLoop::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  posted_.push_back(std::move(task));
  if (posted_.size() == 1) wake(wake_.get());
}

void TcpLoop::run_now(const std::function<void()>& task) {
  if (on_loop()) return task();
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    posted_.push_back([&] {
      task();
      const std::lock_guard done_lock(mutex);
      done = true;
      changed.notify_one();
    });
    if (posted_.size() == 1) wake(wake_.get());
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
}

Status TcpLoop::add(int fd, uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return errno_status("watching a connection", errno);
  }
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return ok_status();
}

Status TcpLoop::modify(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return errno_status("watching a connection", errno);
  }
  return ok_status();
}

void TcpLoop::remove(int fd) {
  if (handlers_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void TcpLoop::run_after(Nanos delay, std::function<void()> task) {
  timers_.emplace(Clock::system().now() + delay, std::move(task));
}

void TcpLoop::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (auto& task : tasks) task();
}

int TcpLoop::run_timers() {
  while (!timers_.empty()) {
    const auto first = timers_.begin();
    const Nanos left = first->first - Clock::system().now();
    if (left > Nanos(0)) return static_cast<int>(left / std::chrono::milliseconds(1)) + 1;
    auto task = std::move(first->second);
    timers_.erase(first);
    task();
  }
  return -1;
}

void TcpLoop::main() {
  thread_id_ = std::this_thread::get_id();
  ::pthread_setname_np(::pthread_self(), "convoy-tcp");
  epoll_event events[kEventsMax];
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events, kEventsMax, run_timers());
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) {
        uint64_t ignored = 0;
        [[maybe_unused]] const ssize_t got = ::read(fd, &ignored, sizeof ignored);
        continue;
      }
      // Looked up anew for each event, so a handler may remove any descriptor. Kept alive while it
      // runs, so it may remove its own.
      const auto found = handlers_.find(fd);
      if (found == handlers_.end()) continue;
      const std::shared_ptr<Handler> handler = found->second;
      (*handler)(events[i].events);
    }
    run_posted();
    const std::lock_guard lock(mutex_);
    if (stopping_ && posted_.empty()) break;
  }
  handlers_.clear();
  timers_.clear();
}

}  // namespace convoy::host
