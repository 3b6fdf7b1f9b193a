// Peer memory's parts beside their limits, in one run: computing parity beside memcpy of the data
// and XXH3; sending a snapshot to a peer of its own process through the real Replicator (checksums
// on both ends included) beside the same bytes through a plain TCP socket and beside memcpy. One
// JSON line a figure; ratio: of the limit.
//
//   ckpt_replica [MIB] [RUNS]
#include "ckpt/replica/erasure.h"
#include "ckpt/replica/peer_memory.h"
#include "ckpt/replica/replicator.h"
#include <convoy/base/checksum.h>
#include <convoy/base/socket.h>

#include <algorithm>
#include <arpa/inet.h>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Case {
  const char* name;
  std::function<void()> run;
  std::vector<double> seconds = {};
  double median() {
    std::ranges::sort(seconds);
    return seconds[seconds.size() / 2];
  }
};

// Interleaved, so that a noisy machine is noisy for all.
void measure(std::vector<Case>& cases, int runs) {
  for (int i = 0; i <= runs; ++i) {
    for (Case& c : cases) {
      const double begin = now_s();
      c.run();
      if (i > 0) c.seconds.push_back(now_s() - begin);
    }
  }
}

void print(const char* name, double bytes, double seconds, double limit_s) {
  std::printf(
      "{\"bench\":\"ckpt.replica\",\"case\":\"%s\",\"metric\":\"rate\",\"value\":%.4g,\"unit\":"
      "\"GB/s\",\"share_of_limit\":%.3f}\n",
      name, bytes / seconds / 1e9, limit_s / seconds);
}

void bench_code(size_t bytes, int runs) {
  for (const ReplicaScheme scheme :
       {ReplicaScheme{2, 1}, ReplicaScheme{4, 2}, ReplicaScheme{8, 2}}) {
    const size_t each = bytes / scheme.k / 64 * 64;
    std::vector<std::vector<std::byte>> pieces(scheme.pieces(), std::vector<std::byte>(each));
    std::vector<const std::byte*> data;
    std::vector<std::byte*> parity;
    for (uint32_t i = 0; i < scheme.pieces(); ++i) {
      for (size_t b = 0; b < each; b += 64) pieces[i][b] = static_cast<std::byte>(b * 31 + i);
      if (i < scheme.k) {
        data.push_back(pieces[i].data());
      } else {
        parity.push_back(pieces[i].data());
      }
    }
    const ErasureCode code(scheme);
    std::vector<std::byte> copy(each * scheme.k);
    uint64_t sum = 0;
    std::vector<Case> cases{{"memcpy",
                             [&] {
                               for (uint32_t i = 0; i < scheme.k; ++i)
                                 std::memcpy(copy.data() + i * each, data[i], each);
                             }},
                            {"encode", [&] { code.encode(data, parity, each); }},
                            {"xxh3", [&] {
                               for (uint32_t i = 0; i < scheme.k; ++i) sum += xxh3({data[i], each});
                             }}};
    measure(cases, runs);
    const std::string name = std::to_string(scheme.k) + "+" + std::to_string(scheme.m);
    const auto whole = static_cast<double>(each * scheme.k);
    print(("encode " + name).c_str(), whole, cases[1].median(), cases[0].median());
    if (scheme.k == 8) {
      print("memcpy", whole, cases[0].median(), cases[0].median());
      print("xxh3", whole, cases[2].median() + (sum == 1 ? 1 : 0), cases[0].median());
    }
  }
}

// The peer: an agent's memory behind a server, and a sink of plain bytes.
[[noreturn]] void peer(int port_to) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto memory = std::make_shared<PeerMemory>();
  rpc::Handlers handlers;
  memory->serve(handlers);
  rpc::ServerOptions options;
  options.host = "127.0.0.1";
  options.connection.message_bytes_max = size_t{256} << 20;
  auto server = rpc::Server::start(options, std::move(handlers)).value();
  UniqueFd sink = listen_tcp(0).value();
  const uint16_t ports[2] = {server->port(), bound_port(sink.get()).value()};
  [[maybe_unused]] auto done = ::write(port_to, ports, sizeof ports);
  const int from = ::accept(sink.get(), nullptr, nullptr);
  std::vector<char> buffer(4 << 20);
  uint64_t left = 0;
  for (;;) {
    if (::recv(from, &left, sizeof left, MSG_WAITALL) != sizeof left) ::_exit(0);
    while (left > 0) {
      const ssize_t got = ::recv(from, buffer.data(), std::min<uint64_t>(left, buffer.size()), 0);
      if (got <= 0) ::_exit(0);
      left -= static_cast<uint64_t>(got);
    }
    done = ::write(from, "1", 1);
  }
}

void bench_send(size_t bytes, int runs) {
  int pipe[2];
  if (::pipe(pipe) != 0) std::exit(1);
  const pid_t pid = ::fork();
  if (pid == 0) peer(pipe[1]);
  uint16_t ports[2];
  if (::read(pipe[0], ports, sizeof ports) != sizeof ports) std::exit(1);
  const UniqueFd sink(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(ports[1]);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(sink.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    std::exit(1);

  auto arena = Arena::create(bytes).value();
  if (!arena->wait_touched().ok()) std::exit(1);
  std::memset(arena->bytes().data(), 7, bytes);
  std::vector<std::byte> copy(bytes);
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t step = 0, sent = 0;
  ReplicatorOptions options;
  options.scheme = {1, 1};
  options.roster = [&] {
    return Roster{{"self", "127.0.0.1:" + std::to_string(ports[0])}, {"", ""}};
  };
  options.connect = [](const std::string& to) {
    rpc::ConnectionOptions connection;
    connection.message_bytes_max = size_t{256} << 20;
    return rpc::Channel::create(to, connection);
  };
  options.done = [&](uint64_t ended, const Status& status) {
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
    const std::lock_guard lock(mutex);
    sent = ended;
    changed.notify_all();
  };
  Replicator replicator(std::move(options));
  std::vector<Case> cases{
      {"memcpy", [&] { std::memcpy(copy.data(), arena->bytes().data(), bytes); }},
      {"tcp",
       [&] {
         const uint64_t size = bytes;
         [[maybe_unused]] auto done = ::send(sink.get(), &size, sizeof size, MSG_MORE);
         for (size_t at = 0; at < bytes;) {
           const ssize_t now = ::send(sink.get(), arena->bytes().data() + at,
                                      std::min<size_t>(bytes - at, 4 << 20), 0);
           if (now <= 0) std::exit(1);
           at += static_cast<size_t>(now);
         }
         char answer = 0;
         done = ::recv(sink.get(), &answer, 1, 0);
       }},
      {"replicator", [&] {
         auto image = std::make_shared<NodeImage>();
         image->info = {1, ++step, 0, 2, 2, 0, {}};
         image->ranks.push_back({0, arena->bytes().first(bytes), {}, arena});
         image->lay_out();
         replicator.submit(image);
         std::unique_lock lock(mutex);
         changed.wait(lock, [&] { return sent == step; });
       }}};
  measure(cases, runs);
  const auto size = static_cast<double>(bytes);
  print("send memcpy", size, cases[0].median(), cases[1].median());
  print("send tcp", size, cases[1].median(), cases[1].median());
  print("send rpc", size, cases[2].median(), cases[1].median());
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  const size_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 256;
  const int runs = argc > 2 ? std::atoi(argv[2]) : 7;
  if (mib < 1 || runs < 1) return 64;
  convoy::ckpt::bench_send(mib << 20, runs);  // first: it forks before there are gRPC threads
  convoy::ckpt::bench_code(mib << 20, runs);
  return 0;
}
