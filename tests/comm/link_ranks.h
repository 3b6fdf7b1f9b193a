#pragma once

// Ranks as threads of the test, joined by TCP over loopback, or by unix sockets where they share a
// (pretended) host. Each has its own endpoint.
#include "src/comm/host/link_group.h"
#include <convoy/comm/host/group.h>
#include <convoy/rendezvous/store.h>

#include <catch2/catch.hpp>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace convoy::host {

struct LinkRanks {
  int size = 2;
  int streams = 2;
  int ranks_per_host = 1;
  Nanos join_timeout = std::chrono::seconds(60);
  Nanos patience = std::chrono::seconds(5);
  std::string name = "links";
  std::string address = "127.0.0.1";

  // Runs `body` as every rank and joins them. Catch2's macros are not thread-safe: bodies return a
  // text, empty when all is well; the first text of all is returned.
  std::string run(const std::function<std::string(int rank, Group& group)>& body) const {
    LocalStore store;
    std::vector<std::string> texts(size);
    std::vector<std::thread> threads;
    for (int r = 0; r < size; ++r) {
      threads.emplace_back([&, r] { texts[r] = run_one(r, store, body); });
    }
    for (auto& thread : threads) thread.join();
    for (int r = 0; r < size; ++r) {
      if (!texts[r].empty()) return "rank " + std::to_string(r) + ": " + texts[r];
    }
    return "";
  }

  std::string run_one(int rank, Store& store,
                      const std::function<std::string(int, Group&)>& body) const {
    TcpEndpoint endpoint(address);
    GroupOptions options;
    options.name = name;
    options.join_timeout = join_timeout;
    options.patience = patience;
    std::vector<std::string> hosts;
    for (int r = 0; r < size; ++r) hosts.push_back("host" + std::to_string(r / ranks_per_host));
    auto group = make_link_group(nullptr, endpoint, store, rank, size, hosts, streams, options);
    if (!group.ok()) return group.status().to_string();
    return body(rank, **group);
  }
};

inline Deadline soon() {
  return Deadline::after(std::chrono::seconds(60));
}

}  // namespace convoy::host
