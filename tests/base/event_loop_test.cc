// The event loop: order of readiness, callbacks that unwatch, timers; and fault points and ports,
// which are as small. Does not measure how exact timers are.
#include <convoy/base/event_loop.h>
#include <convoy/base/fault.h>
#include <convoy/base/socket.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <vector>

namespace convoy {
namespace {

UniqueFd event() {
  return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void raise(const UniqueFd& fd) {
  REQUIRE(::eventfd_write(fd.get(), 1) == 0);
}

TEST_CASE("descriptors are served in the order in which they became ready") {
  const uint32_t seed = std::random_device()();
  INFO("seed " << seed);
  std::vector<UniqueFd> fds(40);
  std::vector<size_t> order(fds.size());
  auto loop = EventLoop::create().value();
  std::vector<size_t> served;
  for (size_t i = 0; i < fds.size(); ++i) {
    fds[i] = event();
    order[i] = i;
    REQUIRE(loop->watch(fds[i].get(), EPOLLIN,
                        [&, i](uint32_t) {
                          loop->unwatch(fds[i].get());
                          served.push_back(i);
                          if (served.size() == fds.size()) loop->stop();
                        })
                .ok());
  }
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  for (const size_t i : order) raise(fds[i]);
  REQUIRE(loop->run().ok());
  REQUIRE(served == order);
}

TEST_CASE("what a callback unwatches is not served, though it was ready in the same round") {
  auto loop = EventLoop::create().value();
  const UniqueFd first = event();
  const UniqueFd second = event();
  int served = 0;
  const auto serve_once = [&](const UniqueFd& other) {
    return [&](uint32_t) {
      ++served;
      loop->unwatch(other.get());
      loop->stop();
    };
  };
  REQUIRE(loop->watch(first.get(), EPOLLIN, serve_once(second)).ok());
  REQUIRE(loop->watch(second.get(), EPOLLIN, serve_once(first)).ok());
  raise(first);
  raise(second);
  loop->after(std::chrono::milliseconds(50), [&] { loop->stop(); });
  REQUIRE(loop->run().ok());
  REQUIRE(served == 1);
}

TEST_CASE("timers fire in the order of their times, cancelled ones do not") {
  auto loop = EventLoop::create().value();
  std::vector<int> fired;
  loop->after(std::chrono::milliseconds(30), [&] {
    fired.push_back(30);
    loop->stop();
  });
  const auto cancelled = loop->after(std::chrono::milliseconds(20), [&] { fired.push_back(20); });
  loop->after(std::chrono::milliseconds(10), [&] {
    fired.push_back(10);
    loop->cancel(cancelled);
  });
  REQUIRE(loop->run().ok());
  REQUIRE(fired == std::vector<int>{10, 30});
}

TEST_CASE("watching a bad descriptor is an error") {
  REQUIRE_FALSE(EventLoop::create().value()->watch(-1, EPOLLIN, [](uint32_t) {}).ok());
}

TEST_CASE("a fault strikes once, on the passage that was armed") {
  REQUIRE_FALSE(fault::strikes("a"));
  fault::arm("a@3,b");
  std::vector<bool> a;
  for (int i = 0; i < 5; ++i) a.push_back(fault::strikes("a"));
  REQUIRE(a == std::vector<bool>{false, false, true, false, false});
  REQUIRE(fault::strikes("b"));
  REQUIRE_FALSE(fault::strikes("c"));
  fault::arm("a");
  fault::arm("");
  REQUIRE_FALSE(fault::strikes("a"));
}

TEST_CASE("a port that somebody listens on is taken") {
  const auto listener = listen_tcp(0);
  REQUIRE(listener.ok());
  const uint16_t port = bound_port(listener->get()).value();
  REQUIRE(listen_tcp(port).status().code() == Code::kAlreadyExists);
  REQUIRE(free_port().value() >= 20000);
}

}  // namespace
}  // namespace convoy
