// Link groups between two network namespaces joined by veth, without torch: GB/s of the collectives
// beside what a plain socket pair carries in both directions at once, measured in the same run. One
// JSON line a result. Usage: link_engine [ranks per namespace, 1] [streams, 4]. Needs root.
#include "tests/comm/link_processes.h"
#include "tests/comm/link_veth.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <poll.h>
#include <sys/socket.h>

using namespace convoy;
using namespace convoy::host;

namespace {

constexpr int kRuns = 7;
const char* const kOps[] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all",
                            "broadcast"};

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Seconds in which `bytes` cross a plain connection in each direction at once.
double pump(int fd, size_t bytes) {
  std::vector<char> buffer(1 << 20);
  const double begin = now_s();
  for (size_t in = 0, out = 0; in < bytes || out < bytes;) {
    pollfd entry{fd, static_cast<short>((in < bytes ? POLLIN : 0) | (out < bytes ? POLLOUT : 0)),
                 0};
    ::poll(&entry, 1, 1000);
    if ((entry.revents & POLLOUT) != 0) {
      const ssize_t n =
          ::send(fd, buffer.data(), std::min(buffer.size(), bytes - out), MSG_DONTWAIT);
      if (n > 0) out += static_cast<size_t>(n);
    }
    if ((entry.revents & POLLIN) != 0) {
      const ssize_t n =
          ::recv(fd, buffer.data(), std::min(buffer.size(), bytes - in), MSG_DONTWAIT);
      if (n > 0) in += static_cast<size_t>(n);
    }
  }
  return now_s() - begin;
}

// Bytes a second of one connection with both directions in use, between rank 0 and `other`.
double raw_rate(int rank, int other) {
  constexpr size_t kBytes = size_t{256} << 20;
  constexpr uint16_t kPort = 45077;
  TcpAddress address{VethPair::address(0), kPort};
  UniqueFd fd;
  if (rank == 0) {
    TcpAddress bound;
    UniqueFd listener = std::move(tcp_listen(VethPair::address(0), bound, kPort)).value();
    pollfd entry{listener.get(), POLLIN, 0};
    ::poll(&entry, 1, 10'000);
    fd.reset(::accept(listener.get(), nullptr, nullptr));
  } else if (rank == other) {
    for (int i = 0; i < 200 && !fd; ++i) {
      auto attempt = tcp_start_connect(address);
      pollfd entry{attempt->get(), POLLOUT, 0};
      ::poll(&entry, 1, 1000);
      if ((entry.revents & (POLLERR | POLLHUP)) == 0)
        fd = std::move(attempt).value();
      else
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  return fd ? static_cast<double>(kBytes) / pump(fd.get(), kBytes) : 0;
}

Collective collective(const std::string& op, std::vector<char>& in, std::vector<char>& out,
                      size_t bytes, int size) {
  Collective c;
  c.dtype = DType::kF32;
  const size_t whole = bytes / 4, part = whole / static_cast<size_t>(size);
  const auto parts = [&](std::vector<char>& memory, size_t count) {
    std::vector<Span> spans;
    for (int r = 0; r < size; ++r) {
      spans.push_back({memory.data() + static_cast<size_t>(r) * count * 4, count});
    }
    return spans;
  };
  c.in = {{in.data(), whole}};
  c.out = {{out.data(), whole}};
  if (op == "all_reduce") c.kind = OpKind::kAllReduce;
  if (op == "broadcast") c.kind = OpKind::kBroadcast;
  if (op == "all_gather") c.kind = OpKind::kAllGather, c.out = parts(out, whole);
  if (op == "reduce_scatter") {
    c.kind = OpKind::kReduceScatter, c.in = parts(in, part), c.out = {{out.data(), part}};
  }
  if (op == "all_to_all")
    c.kind = OpKind::kAllToAll, c.in = parts(in, part), c.out = parts(out, part);
  return c;
}

std::string measure(int rank, Group& group, double rate) {
  const size_t largest = size_t{64} << 20;
  std::vector<char> in(largest), out(largest * static_cast<size_t>(group.size()));
  for (const char* op : kOps) {
    for (const size_t bytes : {size_t{64}, size_t{4} << 10, size_t{1} << 20, largest}) {
      const Collective c = collective(op, in, out, std::max<size_t>(bytes, 64), group.size());
      const int calls = bytes <= 4096 ? 300 : bytes <= (1 << 20) ? 20 : 1;
      std::vector<double> times;
      for (int run = 0; run <= kRuns; ++run) {
        Collective barrier;
        Status status = group.run({&barrier, 1}, Deadline::after(std::chrono::seconds(60)));
        const double begin = now_s();
        for (int i = 0; i < calls && status.ok(); ++i) {
          status = group.run({&c, 1}, Deadline::after(std::chrono::seconds(60)));
        }
        if (!status.ok()) return status.to_string();
        if (run > 0) times.push_back((now_s() - begin) / calls);
      }
      if (rank != 0) continue;
      std::printf(
          "{\"bench\":\"link.%s\",\"case\":\"%dr/%zu\",\"metric\":\"latency_s\",\"value\":%.3g,"
          "\"unit\":\"s\",\"gb_per_s\":%.3g,\"limit\":%.3g,\"limit_name\":\"socket GB/s each "
          "way\"}\n",
          op, group.size(), bytes, median(times), static_cast<double>(bytes) / median(times) / 1e9,
          rate / 1e9);
      std::fflush(stdout);
    }
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  const int per_host = argc > 1 ? std::atoi(argv[1]) : 1;
  VethPair net;
  if (!net.ok()) {
    std::fputs("needs root and iproute2: network namespaces can't be made here\n", stderr);
    return 1;
  }
  LinkProcesses ranks(2 * per_host);
  ranks.streams = argc > 2 ? std::atoi(argv[2]) : 4;
  ranks.address = "";
  ranks.before = [&](int rank) { net.enter(rank / per_host); };
  ranks.start(
      [&](int rank, Group& group) { return measure(rank, group, raw_rate(rank, per_host)); });
  for (int r = 0; r < ranks.size; ++r) {
    if (const std::string text = ranks.result(r); !text.empty()) std::puts(text.c_str());
  }
  return 0;
}
