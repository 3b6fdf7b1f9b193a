// Messages between ranks of one machine: both orders of posting, shared and private buffers, all
// size classes (0, inline, eager, lent), order within one (source, tag), tags out of order, any
// source, wrong sizes, cancelling, limits, deadlines, and a random program with many messages
// outstanding. Ranks are threads.
#include "tests/comm/host_ranks.h"

#include <cstring>
#include <random>

using namespace convoy;
using namespace convoy::host;
using namespace convoy::host::testing;

namespace {

std::string expect(bool condition, const std::string& what) {
  return condition ? "" : "expected: " + what;
}

// Memory of the wanted kind, freed at the end.
class Memory {
 public:
  Memory(Node& node, size_t bytes, bool shared)
      : node_(node),
        shared_(shared),
        data_(shared ? node.heap().allocate(std::max<size_t>(bytes, 1))
                     : malloc(std::max<size_t>(bytes, 1))) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (shared_) {
      node_.heap().deallocate(data_);
    } else {
      free(data_);
    }
  }
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  Node& node_;
  bool shared_;
  void* data_;
};

void fill(uint8_t* data, size_t bytes, unsigned seed) {
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(seed + i * 31 + (i >> 8));
}

bool holds(const uint8_t* data, size_t bytes, unsigned seed) {
  for (size_t i = 0; i < bytes; ++i) {
    if (data[i] != static_cast<uint8_t>(seed + i * 31 + (i >> 8))) return false;
  }
  return true;
}

GroupOptions named(const std::string& name) {
  GroupOptions options;
  options.name = name;
  return options;
}

void barrier(Rank& self) {
  const Collective op;
  (void)self.group->run({&op, 1}, soon());
}

}  // namespace

TEST_CASE("one message, in both orders, of every size and placement", "[host]") {
  run_threads(2, [](Rank& self) -> std::string {
    unsigned seed = 0;
    for (const size_t bytes : {0, 1, 100, 16384, 16385, 300000, 2000000}) {
      for (const bool send_shared : {false, true}) {
        for (const bool recv_shared : {false, true}) {
          for (const bool send_first : {false, true}) {
            ++seed;
            const std::string what = std::to_string(bytes) + " bytes, case " + std::to_string(seed);
            const bool sends = self.rank == 0;
            const Memory m(*self.node, bytes, sends ? send_shared : recv_shared);
            if (sends) fill(m.data(), bytes, seed);
            if (sends != send_first) barrier(self);
            auto t = sends ? self.group->post_send(m.data(), bytes, 1, 5)
                           : self.group->post_recv(m.data(), bytes, 0, 5);
            if (!t.ok()) return t.status().to_string();
            if (sends == send_first) barrier(self);
            if (const Status s = (*t)->wait(soon()); !s.ok()) return what + ": " + s.to_string();
            if (!(*t)->test()) return what + ": test() after wait()";
            if (!sends && (*t)->source() != 0) return what + ": source";
            if (!sends && !holds(m.data(), bytes, seed)) return what + ": wrong bytes";
          }
        }
      }
    }
    return "";
  });
}

TEST_CASE("messages of one tag keep their order, tags don't wait for each other", "[host]") {
  run_threads(2, [](Rank& self) -> std::string {
    constexpr int kCount = 50;
    std::vector<int> values(2 * kCount);
    std::vector<std::shared_ptr<Transfer>> transfers;
    for (int i = 0; i < kCount; ++i) {
      for (const int tag : {1, 2}) {
        int& v = values[(tag - 1) * kCount + i];
        if (self.rank == 0) {
          v = tag * 1000 + i;
          transfers.push_back(self.group->post_send(&v, sizeof v, 1, tag).value());
        }
      }
    }
    if (self.rank == 1) {
      for (const int tag : {2, 1}) {
        for (int i = 0; i < kCount; ++i) {
          int& v = values[(tag - 1) * kCount + i];
          transfers.push_back(self.group->post_recv(&v, sizeof v, 0, tag).value());
        }
      }
    }
    for (auto& t : transfers) {
      if (const Status s = t->wait(soon()); !s.ok()) return s.to_string();
    }
    for (int i = 0; i < 2 * kCount; ++i) {
      if (values[i] != (1 + i / kCount) * 1000 + i % kCount) return "wrong order";
    }
    return "";
  });
}

TEST_CASE("a receive from any source takes each message once and names its sender", "[host]") {
  run_threads(4, [](Rank& self) -> std::string {
    int value = 100 + self.rank;
    if (self.rank != 0) {
      auto t = self.group->post_send(&value, sizeof value, 0, 9).value();
      return t->wait(soon()).ok() ? "" : "send failed";
    }
    unsigned seen = 0;
    for (int i = 0; i < 3; ++i) {
      auto t = self.group->post_recv(&value, sizeof value, kAnySource, 9).value();
      if (const Status s = t->wait(soon()); !s.ok()) return s.to_string();
      if (value != 100 + t->source()) return "sender and value differ";
      seen |= 1U << t->source();
    }
    return expect(seen == 0b1110, "one message of each");
  });
}

TEST_CASE("a size that differs fails both sides and names the sizes", "[host]") {
  for (const bool send_first : {false, true}) {
    for (const size_t bytes : {100, 100000}) {
      run_threads(
          2,
          [&](Rank& self) -> std::string {
            const bool sends = self.rank == 0;
            const Memory m(*self.node, bytes + 1, true);
            if (sends != send_first) barrier(self);
            auto t = sends ? self.group->post_send(m.data(), bytes, 1, 0).value()
                           : self.group->post_recv(m.data(), bytes + 1, 0, 0).value();
            if (sends == send_first) barrier(self);
            const Status s = t->wait(soon());
            // A small message's sender has gone on before the receive came.
            if (sends && send_first && bytes == 100)
              return expect(s.ok(), "an eager send is complete");
            const std::string text = "rank 0 sent " + std::to_string(bytes) +
                                     " bytes with tag 0 to rank 1 of group " +
                                     "sizes, which expects " + std::to_string(bytes + 1) + " bytes";
            return s.code() == Code::kMismatch && s.message() == text ? "" : s.to_string();
          },
          named("sizes"));
    }
  }
}

TEST_CASE("a dropped receive takes no message; a late one names who is missing", "[host]") {
  run_threads(2, [](Rank& self) -> std::string {
    int value = 7;
    if (self.rank == 0) {
      barrier(self);
      return self.group->post_send(&value, sizeof value, 1, 0).value()->wait(soon()).to_string() ==
                     "ok"
                 ? ""
                 : "send";
    }
    {
      int dropped = 0;
      auto t = self.group->post_recv(&dropped, sizeof dropped, 0, 0).value();
      if (t->test()) return "nothing was sent yet";
    }
    value = 0;
    {
      auto late = self.group->post_recv(&value, sizeof value, 0, 0).value();
      const Status s = late->wait(Deadline::after(std::chrono::milliseconds(20)));
      if (s.code() != Code::kDeadlineExceeded ||
          s.message().find("rank 0 has not sent the message of 4 bytes with tag 0 from rank 0 to "
                           "rank 1 of group ") != 0) {
        return s.to_string();
      }
    }
    barrier(self);
    auto t = self.group->post_recv(&value, sizeof value, 0, 0).value();
    if (const Status s = t->wait(soon()); !s.ok()) return s.to_string();
    return expect(value == 7, "the message goes to the receive that is there");
  });
}

TEST_CASE("a deadline's text follows the waits behind it", "[host]") {
  run_threads(3, [](Rank& self) -> std::string {
    int value = 7;
    if (self.rank == 0) {
      // Rank 1 waits for rank 2, which sends when rank 0 has seen that.
      auto late = self.group->post_recv(&value, sizeof value, 1, 0).value();
      const Status none = late->wait(Deadline::after(std::chrono::milliseconds(20)));
      if (none.code() != Code::kDeadlineExceeded) return none.to_string();
      std::string text;
      for (int i = 0; i < 600 && text.find("; rank 1 waits for rank 2") == std::string::npos; ++i) {
        auto again = self.group->post_recv(&value, sizeof value, 1, 1).value();
        text = again->wait(Deadline::after(std::chrono::milliseconds(50))).message();
      }
      auto release = self.group->post_send(&value, sizeof value, 2, 0).value();
      if (const Status s = release->wait(soon()); !s.ok()) return s.to_string();
      return expect(text.find("; rank 1 waits for rank 2") != std::string::npos, text);
    }
    auto receive = self.group->post_recv(&value, sizeof value, self.rank == 1 ? 2 : 0, 0).value();
    if (const Status s = receive->wait(soon()); !s.ok()) return s.to_string();
    if (self.rank == 1) return "";
    return self.group->post_send(&value, sizeof value, 1, 0).value()->wait(soon()).message();
  });
}

TEST_CASE("the number of messages that wait is limited, by name", "[host]") {
  run_threads(2, [](Rank& self) -> std::string {
    int value = 0;
    if (self.rank == 0) {
      int accepted = 0;
      for (;; ++accepted) {
        auto t = self.group->post_send(&value, sizeof value, 1, 0);
        if (t.ok()) continue;
        if (t.status().code() != Code::kResourceExhausted) return t.status().to_string();
        break;
      }
      barrier(self);
      barrier(self);
      if (accepted != 1024) return "accepted " + std::to_string(accepted);
      // The places are free again.
      return self.group->post_send(&value, sizeof value, 1, 0).ok() ? "" : "no place";
    }
    barrier(self);
    for (int i = 0; i < 1024; ++i) {
      auto t = self.group->post_recv(&value, sizeof value, 0, 0).value();
      if (!t->wait(soon()).ok()) return "receive";
    }
    barrier(self);
    return "";
  });
}

TEST_CASE("a small message outlives its sender's group", "[host]") {
  run_threads(2, [](Rank& self) -> std::string {
    int value = 42;
    if (self.rank == 0) {
      auto t = self.group->post_send(&value, sizeof value, 1, 0).value();
      self.group.reset();
      return expect(t->test(), "complete at once");
    }
    value = 0;
    Clock::system().sleep_for(std::chrono::milliseconds(30));
    auto t = self.group->post_recv(&value, sizeof value, 0, 0).value();
    if (const Status s = t->wait(soon()); !s.ok()) return s.to_string();
    auto none = self.group->post_recv(&value, sizeof value, 0, 0).value();
    const Status s = none->wait(soon());
    if (s.code() != Code::kAborted || s.message().find("rank 0 has left the group") != 0) {
      return s.to_string();
    }
    return expect(value == 42, "the value");
  });
}

TEST_CASE("a random program with many messages outstanding", "[host]") {
  for (const uint32_t seed : {1, 2, 3}) {
    INFO("seed " << seed);
    run_threads(4, [&](Rank& self) -> std::string {
      // All ranks work out the same list of messages; each takes its part of it, in its own order.
      struct Message {
        int from, to, tag;
        size_t bytes;
      };
      std::mt19937 shared(seed), own(seed * 100 + self.rank);
      std::vector<Message> list;
      for (int i = 0; i < 300; ++i) {
        const int from = shared() % 4, to = shared() % 4;
        list.push_back({from, to, static_cast<int>(shared() % 3),
                        shared() % 3 == 0 ? shared() % 200000 : shared() % 500});
      }
      std::vector<std::unique_ptr<Memory>> memory;
      std::vector<std::pair<std::shared_ptr<Transfer>, size_t>> transfers;
      std::vector<size_t> indices;
      std::vector<uint8_t*> received(list.size(), nullptr);
      for (size_t i = 0; i < list.size(); ++i) {
        const Message& m = list[i];
        for (const bool sends : {true, false}) {
          if ((sends ? m.from : m.to) != self.rank) continue;
          memory.push_back(std::make_unique<Memory>(*self.node, m.bytes, own() % 2 == 0));
          uint8_t* data = memory.back()->data();
          if (sends) fill(data, m.bytes, static_cast<unsigned>(i));
          if (!sends) received[i] = data;
          auto t = sends ? self.group->post_send(data, m.bytes, m.to, m.tag)
                         : self.group->post_recv(data, m.bytes, m.from, m.tag);
          if (!t.ok()) return t.status().to_string();
          transfers.emplace_back(*t, i);
        }
        if (own() % 8 == 0) std::this_thread::yield();
      }
      std::shuffle(transfers.begin(), transfers.end(), own);
      for (auto& [t, i] : transfers) {
        if (own() % 2 == 0 && t->test()) continue;
        if (const Status s = t->wait(soon()); !s.ok()) return s.to_string();
      }
      for (size_t i = 0; i < list.size(); ++i) {
        if (received[i] != nullptr &&
            !holds(received[i], list[i].bytes, static_cast<unsigned>(i))) {
          return "message " + std::to_string(i) + " is wrong";
        }
      }
      barrier(self);
      return "";
    });
  }
}
