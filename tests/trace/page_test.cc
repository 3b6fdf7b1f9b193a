// The page over real HTTP. Method: a page listens on a free port, a plain socket speaks to it, well
// and badly, while another thread gives it a job's events.
#include "src/cli/http_get.h"
#include <convoy/base/fd.h>
#include <convoy/sim/cluster.h>
#include <convoy/trace/page.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <arpa/inet.h>
#include <atomic>
#include <sys/socket.h>
#include <thread>

// What a case does not name stands at its default.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace convoy::trace {
namespace {

using Json = nlohmann::json;
constexpr Nanos kPatience = std::chrono::seconds(20);

UniqueFd connect_to(uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

// All that the server says to these bytes.
std::string say(uint16_t port, const std::string& bytes) {
  const UniqueFd fd = connect_to(port);
  ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  std::string answer;
  char part[4096];
  for (ssize_t got = 0; (got = ::recv(fd.get(), part, sizeof part, 0)) > 0;) {
    answer.append(part, static_cast<size_t>(got));
  }
  return answer;
}

std::string get(const std::string& path, const std::string& more = "",
                const std::string& host = "localhost") {
  return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + more + "\r\n";
}

struct Simulated {
  Registry registry;
  std::unique_ptr<Page> page;

  explicit Simulated(const PageOptions& options = {}) {
    auto started = Page::start(registry, options);
    REQUIRE(started.ok());
    page = std::move(*started);
  }
  void run(const std::string& mesh, uint32_t steps) {
    sim::Cluster cluster;
    cluster.mesh = mesh;
    cluster.steps = steps;
    REQUIRE(sim::simulate(cluster, registry, *page).ok());
  }
  Result<Json> json(const std::string& path, const std::string& token = "") {
    CONVOY_ASSIGN_OR_RETURN(const std::string text,
                            cli::http_get(page->url(), path, token, kPatience));
    return Json::parse(text);
  }
};

TEST_CASE("the page, its data and its metrics") {
  Simulated job;
  job.run("tp=2,pp=2,dp=2", 6);
  const auto overview = job.json("/api/overview");
  REQUIRE(overview.ok());
  CHECK((*overview)["world_size"] == 8);
  CHECK((*overview)["steps"]["step"].size() >= 4);
  CHECK((*job.json("/api/ranks"))["step_us"].size() == 8);
  CHECK((*job.json("/api/rank?rank=7"))["rank"] == 7);
  const Json groups = *job.json("/api/groups");
  const auto id = groups["groups"][0]["id"].get<int>();
  const Json group = *job.json("/api/group?group=" + std::to_string(id));
  REQUIRE_FALSE(group["instances"].empty());
  const auto sequence = group["instances"][0]["sequence"].get<int>();
  const Json instance = *job.json("/api/instance?group=" + std::to_string(id) +
                                  "&sequence=" + std::to_string(sequence));
  CHECK(instance["members"]["rank"].size() == group["size"]);
  CHECK((*job.json("/api/links")).contains("links"));
  const uint16_t port = job.page->port();
  CHECK(say(port, get("/metrics")).find("convoy_step_seconds{") != std::string::npos);
  const std::string index = say(port, get("/"));
  CHECK(index.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(index.find("Content-Security-Policy: default-src 'none'") != std::string::npos);
  CHECK(say(port, get("/app.js")).find("app.start()") != std::string::npos);
  CHECK(say(port, get("/style.css")).find("text/css") != std::string::npos);
}

TEST_CASE("what can't be asked for") {
  Simulated job;
  const uint16_t port = job.page->port();
  CHECK(job.json("/api/rank?rank=70000").status().code() == Code::kNotFound);
  CHECK(say(port, get("/api/rank?rank=x")).starts_with("HTTP/1.1 400"));
  CHECK(say(port, get("/api/rank")).starts_with("HTTP/1.1 400"));
  CHECK(say(port, get("/../etc/passwd")).starts_with("HTTP/1.1 404"));
  CHECK(say(port,
            "POST /api/overview HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n123456789")
            .starts_with("HTTP/1.1 405"));
  CHECK(say(port, get("/api/overview", "", "attacker.example")).starts_with("HTTP/1.1 421"));
  CHECK(say(port, "\r\n\r\n").starts_with("HTTP/1.1 400"));
  CHECK(say(port, "GET HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
  CHECK(say(port, "GET / HTTP/1.1\r\nX: " + std::string(9000, 'x')).starts_with("HTTP/1.1 400"));
  const std::string head = say(port, "HEAD /app.js HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 200"));
  CHECK(head.ends_with("\r\n\r\n"));
}

TEST_CASE("a token is asked for where there is one") {
  Simulated job({.token = "secret"});
  const uint16_t port = job.page->port();
  CHECK(say(port, get("/api/overview")).starts_with("HTTP/1.1 401"));
  CHECK(say(port, get("/metrics", "Authorization: Bearer secreT\r\n")).starts_with("HTTP/1.1 401"));
  CHECK(say(port, get("/metrics", "authorization: Bearer secret\r\n")).starts_with("HTTP/1.1 200"));
  CHECK(say(port, get("/")).starts_with("HTTP/1.1 200"));  // holds no data
  CHECK(job.json("/api/overview", "secret").ok());
  Registry registry;
  CHECK(Page::start(registry, {.address = "0.0.0.0"}).status().code() == Code::kInvalidArgument);
  CHECK(Page::start(registry, {.port = port}).status().code() == Code::kAlreadyExists);
}

TEST_CASE("clients that say nothing keep nobody out") {
  Simulated job({.connections_max = 8});
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 40; ++i) idle.push_back(connect_to(job.page->port()));
  CHECK(job.json("/api/overview").ok());
}

TEST_CASE("it is read while events come") {
  Simulated job;
  std::atomic<bool> done = false;
  std::thread reader([&] {
    while (!done) {
      for (const char* path :
           {"/api/overview", "/api/ranks", "/api/groups", "/api/links", "/api/rank?rank=1"}) {
        const auto json = job.json(path);
        if (!json.ok() && json.status().code() != Code::kNotFound) std::abort();
      }
    }
  });
  job.run("tp=2,pp=2,dp=2", 40);
  job.page->set_verdicts({{.cls = Class::kCrash, .culprit = {.ranks = {3}}}});
  done = true;
  reader.join();
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // views are made once a second
  CHECK((*job.json("/api/overview"))["verdicts"][0]["class"] == "CRASH");
}

}  // namespace
}  // namespace convoy::trace
