// What launchers say to the supervisor of a job on several machines: who is refused, and that it
// stands whatever it is told. The lines themselves: over loopback.
#include "src/resilience/supervisor/remote_nodes.h"
#include "tests/resilience/made_up_cluster.h"
#include "tests/temp_folder.h"
#include <convoy/base/socket.h>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <poll.h>
#include <random>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Lines without a network.
class MadeUpLines final : public Lines {
 public:
  int fd() const override { return -1; }
  std::vector<LineNews> take_news() override { return std::exchange(news, {}); }
  uint64_t open() override { return 0; }
  void send(uint64_t line, const std::string& bytes) override {
    sent[line].emplace_back().ParseFromString(bytes);
  }
  void end(uint64_t line, const Status& why) override { ended[line] = why; }

  std::vector<LineNews> news;
  std::map<uint64_t, std::vector<proto::ToNode>> sent;
  std::map<uint64_t, Status> ended;
};

proto::FromNode good_hello() {
  proto::FromNode message;
  proto::NodeHello& hello = *message.mutable_hello();
  hello.set_version(kProtocolVersion);
  hello.set_node(1);
  hello.set_job("job");
  hello.set_ranks(kRanks);
  hello.set_mesh("tp=2,dp=4");
  hello.add_workers()->set_worker((uint64_t{1} << 32U) + 1);
  return message;
}

// A message of each kind with fields at random, many of them at the limits of what they may be, or
// beyond; some with bytes changed on the way.
proto::FromNode random_message(std::mt19937_64& random, uint64_t generation) {
  const auto of = [&](auto... values) {
    const int64_t all[] = {static_cast<int64_t>(values)...};
    return all[random() % std::size(all)];
  };
  const auto worker = [&] {
    const uint64_t first = (random() % 3) << 32U;
    return random() % 8 == 0 ? random() : first + random() % 12;
  };
  const auto rank = [&] {
    return static_cast<int32_t>(of(-1, 0, 1, 7, 8, 100, INT32_MAX, INT32_MIN, random() % 8));
  };
  const auto text = [&] { return std::string(random() % 40, static_cast<char>(random() % 256)); };
  const auto real = [&] {
    const double all[] = {0, -1, 0.5, 1e300, NAN, INFINITY};
    return all[random() % std::size(all)];
  };
  proto::FromNode m;
  switch (random() % 12) {
    case 0: {
      proto::NodeHello& hello = *m.mutable_hello();
      hello.set_version(static_cast<uint32_t>(of(kProtocolVersion, kProtocolVersion, 0)));
      hello.set_name(text());
      hello.set_generation(random() % 4 == 0 ? random() % 50 : generation);
      for (uint64_t i = random() % 6; i > 0; --i) hello.add_done(rank());
      for (uint64_t i = random() % 6; i > 0; --i) {
        proto::Worker& w = *hello.add_workers();
        w.set_worker(worker());
        w.set_rank(rank());
        w.set_has_joined(random() % 2 == 0);
      }
      break;
    }
    case 1:
      m.mutable_started()->mutable_worker()->set_worker(worker());
      m.mutable_started()->mutable_worker()->set_rank(rank());
      break;
    case 2:
      m.mutable_ended()->set_worker(worker());
      m.mutable_ended()->set_wait_status(static_cast<int32_t>(of(0, 9, 256, -1, 127, 1 << 20)));
      break;
    case 3: {
      proto::Vital& v = *m.mutable_vitals()->add_of();
      v.set_worker(worker());
      v.set_step(of(-1, 0, 11, INT64_MAX, INT64_MIN));
      v.set_step_ns(of(-1, 0, 1000000, INT64_MAX));
      v.set_training(random() % 2 == 0);
      v.set_halted(random() % 2 == 0);
      v.set_takes_any_mesh(random() % 2 == 0);
      break;
    }
    case 4:
      m.mutable_request()->set_what(random() % 2 == 0 ? text() : std::string("drain 1"));
      break;
    case 5:
      m.mutable_verdict()->set_kind(static_cast<proto::Verdict::Kind>(random() % 4));
      m.mutable_verdict()->add_ranks(rank());
      m.mutable_verdict()->set_age_s(real());
      m.mutable_verdict()->set_cost(real());
      break;
    case 6:
      m.mutable_checked()->set_is_fit(random() % 2 == 0);
      m.mutable_checked()->set_text(text());
      break;
    default: {
      m.mutable_said()->set_worker(worker());
      proto::FromWorker& what = *m.mutable_said()->mutable_what();
      const uint64_t g = random() % 4 == 0 ? random() : generation;
      switch (random() % 4) {
        case 0:
          what.mutable_ready()->set_generation(g);
          what.mutable_ready()->set_store_port(static_cast<uint32_t>(random()));
          break;
        case 1:
          what.mutable_running()->set_generation(g);
          what.mutable_running()->set_step(of(-1, 0, INT64_MAX, INT64_MIN));
          what.mutable_running()->set_resumed(of(-1, 0, INT64_MAX, INT64_MIN));
          what.mutable_running()->set_loaded_s(real());
          break;
        case 2:
          what.mutable_trouble()->set_generation(g);
          what.mutable_trouble()->set_code(static_cast<uint32_t>(random() % 30));
          what.mutable_trouble()->set_text(text());
          what.mutable_trouble()->set_is_corruption(random() % 2 == 0);
          what.mutable_trouble()->set_is_held(random() % 2 == 0);
          what.mutable_trouble()->add_wrong(rank());
          break;
        default:
          what.mutable_hello()->set_worker(worker());
      }
    }
  }
  if (random() % 4 != 0) return m;
  std::string bytes = m.SerializeAsString();
  if (!bytes.empty()) bytes[random() % bytes.size()] = static_cast<char>(random());
  proto::FromNode damaged;
  return damaged.ParseFromString(bytes) ? damaged : m;
}

}  // namespace

// It may end the job, since it believes what it is told; but it lives, and answers.
TEST_CASE("whatever launchers and workers say, the supervisor stands") {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const TempFolder folder;
    std::mt19937_64 random(seed);
    const char* const meshes[] = {"tp=2,dp=4", "tp=2,pp=2,dp=2", "tp=8", "dp=8"};
    Cluster job(folder.path(), meshes[seed % 4], static_cast<int>(seed % 3), seed);
    job.obeys = false;  // what is ordered for such news is not what these launchers can do
    job.settle();
    for (int i = 0; i < 60; ++i) {
      job.tell(static_cast<int>(random() % kNodes), random_message(random, job.newest));
      if (random() % 4 == 0) {
        job.clock.advance(milliseconds(random() % 2000));
        job.supervisor->tick();
      }
      for (auto& m : job.machines) m.orders.clear();
    }
    if (job.supervisor->is_over()) continue;
    CHECK_THAT(job.status(), Catch::Contains("\"generation\""));
  }
}

TEST_CASE("who does not belong to the job is dropped, and told why") {
  auto owned = std::make_unique<MadeUpLines>();
  MadeUpLines& lines = *owned;
  std::vector<int> heard, gone;
  RemoteNodes nodes(
      std::move(owned), {.job = "job", .mesh = "tp=2,dp=4", .nodes = kNodes, .ranks = kRanks},
      [&](int node, const proto::FromNode&) { heard.push_back(node); },
      [&](int node, const std::string&) { gone.push_back(node); });
  uint64_t line = 0;
  const auto connect = [&](const std::string& bytes) {
    lines.news = {{LineNews::Kind::kOpened, ++line, "10.0.0.9:1", {}},
                  {LineNews::Kind::kMessage, line, bytes, {}}};
    nodes.serve();
    REQUIRE(lines.sent[line].size() == 1);
    CHECK(lines.sent[line].front().greet());
    return lines.ended.contains(line) ? lines.ended[line].message() : "";
  };
  const auto with = [&](auto&& change) {
    proto::FromNode message = good_hello();
    change(*message.mutable_hello());
    return connect(message.SerializeAsString());
  };
  using Catch::Contains;
  CHECK_THAT(connect("\xff\xff nonsense"), Contains("no message"));
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good_hello().SerializeAsString();
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    connect(bytes);
    if (!lines.ended.contains(line)) lines.news = {{LineNews::Kind::kEnded, line, "", {}}};
    nodes.serve();
  }
  heard.clear(), gone.clear();
  CHECK_THAT(connect(""), Contains("no message"));
  proto::FromNode early;
  early.mutable_ended()->set_worker(1);
  CHECK_THAT(connect(early.SerializeAsString()), Contains("says hello first"));
  CHECK_THAT(with([](auto& h) { h.set_version(1); }), Contains("version"));
  CHECK_THAT(with([](auto& h) { h.set_node(0); }), Contains("--node-rank"));
  CHECK_THAT(with([](auto& h) { h.set_node(2); }), Contains("--nnodes"));
  CHECK_THAT(with([](auto& h) { h.set_job("another"); }), Contains("'another'"));
  CHECK_THAT(with([](auto& h) { h.set_ranks(8); }), Contains("-n is 8"));
  CHECK_THAT(with([](auto& h) { h.set_mesh("dp=8"); }), Contains("--mesh"));
  CHECK_THAT(with([](auto& h) { h.add_workers()->set_worker(7); }), Contains("another machine"));
  CHECK(heard.empty());
  CHECK(with([](auto& h) { h.set_job(""); }).empty());  // it was not told one
  CHECK(heard == std::vector<int>{1});
  const uint64_t first = line;
  CHECK(with([](auto&) {}).empty());  // the same machine again
  CHECK(lines.ended.contains(first));
  lines.news = {{LineNews::Kind::kEnded, first, {}, {}}};
  nodes.serve();
  CHECK(gone.empty());
  proto::ToNode order;
  order.set_whole(true);
  nodes.send(1, order);
  CHECK(lines.sent[line].size() == 2);
  lines.news = {{LineNews::Kind::kMessage, line, "\xff", {}}};
  nodes.serve();
  CHECK(gone == std::vector<int>{1});
}

TEST_CASE("lines carry messages both ways, in order, and need the token") {
  const auto port = free_port();
  REQUIRE(port.ok());
  rpc::ConnectionOptions connection;
  connection.token = "a-secret";
  auto server = listen_lines(*port, connection);
  INFO(server.status().message());
  REQUIRE(server.ok());
  CHECK(listen_lines(*port, connection).status().code() == Code::kAlreadyExists);
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  auto client = dial_lines(address, connection);
  REQUIRE(client.ok());
  const uint64_t line = (*client)->open();
  std::vector<LineNews> at_server, at_client;
  const auto await = [&](Lines& lines, std::vector<LineNews>& news, size_t count) {
    while (news.size() < count) {
      pollfd ready{lines.fd(), POLLIN, 0};
      REQUIRE(::poll(&ready, 1, 30'000) == 1);
      for (LineNews& each : lines.take_news()) news.push_back(std::move(each));
    }
  };
  for (int i = 0; i < 100; ++i) (*client)->send(line, std::to_string(i));
  await(**server, at_server, 101);
  CHECK(at_server.front().kind == LineNews::Kind::kOpened);
  for (size_t i = 0; i < 100; ++i) CHECK(at_server[i + 1].bytes == std::to_string(i));
  (*server)->send(at_server.front().line, "back");
  (*server)->end(at_server.front().line, {Code::kMismatch, "enough"});
  await(**client, at_client, 2);
  CHECK(at_client[0].bytes == "back");
  CHECK(at_client[1].kind == LineNews::Kind::kEnded);
  CHECK(at_client[1].why.code() == Code::kMismatch);
  CHECK(at_client[1].why.message() == "enough");
  auto stranger = dial_lines(address, {});
  REQUIRE(stranger.ok());
  (*stranger)->open();
  std::vector<LineNews> refused;
  await(**stranger, refused, 1);
  CHECK(refused.front().why.code() == Code::kFailedPrecondition);
}
