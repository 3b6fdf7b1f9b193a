// Webhooks. Method: a socket plays the receiver and answers as told; counts say how often was
// posted.
#include <convoy/base/fd.h>
#include <convoy/base/socket.h>
#include <convoy/trace/alerts.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <functional>
#include <mutex>
#include <sys/socket.h>
#include <thread>

// What a case does not name stands at its default.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace convoy::trace {
namespace {

template <class T>
T taken(Result<T> result) {
  REQUIRE(result.ok());
  return std::move(result).value();
}

// Answers the first requests with these statuses, later ones with 200.
class Receiver {
 public:
  explicit Receiver(std::vector<int> statuses)
      : statuses_(std::move(statuses)), listener_(taken(listen_tcp(0))) {
    thread_ = std::thread([this] { serve(); });
  }
  ~Receiver() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::string url() const {
    return "http://127.0.0.1:" + std::to_string(*bound_port(listener_.get())) + "/hook";
  }
  std::vector<nlohmann::json> bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }

 private:
  void serve() {
    for (size_t n = 0;; ++n) {
      const UniqueFd fd(::accept(listener_.get(), nullptr, nullptr));
      if (!fd) return;
      std::string text;
      char part[4096];
      for (;;) {
        const size_t head = text.find("\r\n\r\n");
        const size_t length = text.find("Content-Length: ");
        if (head != std::string::npos &&
            text.size() >= head + 4 + std::stoul(text.substr(length + 16))) {
          const std::lock_guard lock(mutex_);
          bodies_.push_back(nlohmann::json::parse(text.substr(head + 4)));
          break;
        }
        const ssize_t got = ::recv(fd.get(), part, sizeof part, 0);
        if (got <= 0) break;
        text.append(part, static_cast<size_t>(got));
      }
      const int status = n < statuses_.size() ? statuses_[n] : 200;
      const std::string answer = "HTTP/1.1 " + std::to_string(status) +
                                 " X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      ::send(fd.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    }
  }
  std::vector<int> statuses_;
  UniqueFd listener_;
  std::mutex mutex_;
  std::vector<nlohmann::json> bodies_;
  std::thread thread_;
};

void wait_for(const std::function<bool()>& condition) {
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  while (!condition() && !deadline.passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  REQUIRE(condition());
}

Verdict slow_rank(uint32_t rank) {
  return {.cls = Class::kSlowCompute, .culprit = {.ranks = {rank}}, .confidence = 0.9, .cost = 0.2};
}

TEST_CASE("trouble is told once, and once when it is over") {
  Receiver receiver({});
  const Registry registry;
  auto alerts =
      taken(Alerts::start(registry, {.url = receiver.url(), .job = "j", .cost_min = 0.1}));
  Verdict verdict = slow_rank(3);
  alerts->tell(verdict);
  verdict.confidence = 0.99;  // has changed: no news
  alerts->tell(verdict);
  alerts->tell(slow_rank(4));
  Verdict cheap = slow_rank(5);
  cheap.cost = 0.01;
  alerts->tell(cheap);
  cheap.cleared = 9;
  alerts->tell(cheap);  // was never told
  verdict.cleared = 7000;
  alerts->tell(verdict);
  wait_for([&] { return alerts->counts().sent == 3; });
  alerts.reset();
  const auto bodies = receiver.bodies();
  REQUIRE(bodies.size() == 3);
  CHECK(bodies[0]["state"] == "open");
  CHECK(bodies[0]["job"] == "j");
  CHECK(bodies[0]["verdict"]["class"] == "SLOW_COMPUTE");
  CHECK(bodies[1]["verdict"]["culprit"]["ranks"] == nlohmann::json{4});
  CHECK(bodies[2]["state"] == "over");
}

TEST_CASE("a receiver that fails is asked again; one that refuses is not") {
  Receiver receiver({503, 429, 200, 400});
  const Registry registry;
  auto alerts = taken(Alerts::start(
      registry, {.url = receiver.url(), .first_retry = std::chrono::milliseconds(10)}));
  alerts->tell(slow_rank(1));
  wait_for([&] { return alerts->counts().sent == 1; });
  CHECK(alerts->counts().retried == 2);
  alerts->tell(slow_rank(2));
  wait_for([&] { return alerts->counts().failed == 1; });
}

TEST_CASE("nobody there: it gives up, keeps few, and ends") {
  const Registry registry;
  auto alerts = taken(Alerts::start(registry, {.url = "http://127.0.0.1:1/",
                                               .attempts_max = 2,
                                               .first_retry = std::chrono::milliseconds(1),
                                               .queue_max = 4}));
  for (uint32_t rank = 0; rank < 100; ++rank) alerts->tell(slow_rank(rank));
  wait_for([&] {
    const Alerts::Counts counts = alerts->counts();
    return counts.failed + counts.dropped == 100;
  });
  CHECK(alerts->counts().sent == 0);
  CHECK(Alerts::start(registry, {.url = "file:///etc/passwd"}).status().code() ==
        Code::kInvalidArgument);
}

}  // namespace
}  // namespace convoy::trace
