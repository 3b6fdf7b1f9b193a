// Messages over TCP links: sizes on both sides of the small-message limit, order per source and
// tag, any source, both orders of posting, cancelling, sizes that differ, senders far ahead of the
// receiver, both directions at once. Ranks are threads. Random parts print their seed. Not checked
// here: dying ranks (link_faults_test.cc).
#include "src/comm/host/link_channel.h"
#include "tests/comm/link_ranks.h"

#include <random>

using namespace convoy;
using namespace convoy::host;

namespace {

constexpr unsigned kSeed = 4711;

std::vector<uint32_t> pattern(size_t count, uint32_t seed) {
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; ++i) words[i] = seed * 2654435761U + static_cast<uint32_t>(i);
  return words;
}

std::string send(Group& group, const std::vector<uint32_t>& words, int to, int tag) {
  auto transfer = group.post_send(words.data(), words.size() * 4, to, tag);
  if (!transfer.ok()) return transfer.status().to_string();
  const Status status = (*transfer)->wait(soon());
  return status.ok() ? "" : status.to_string();
}

std::string recv(Group& group, const std::vector<uint32_t>& expected, int from, int tag,
                 int source = -1) {
  std::vector<uint32_t> words(expected.size(), 0xdeadbeef);
  auto transfer = group.post_recv(words.data(), words.size() * 4, from, tag);
  if (!transfer.ok()) return transfer.status().to_string();
  if (const Status status = (*transfer)->wait(soon()); !status.ok()) return status.to_string();
  if (source >= 0 && (*transfer)->source() != source) return "wrong source";
  return words == expected ? "" : "wrong bytes";
}

}  // namespace

TEST_CASE("messages of all sizes, expected and unexpected") {
  LinkRanks ranks;
  ranks.streams = GENERATE(1, 3);
  ranks.ranks_per_host = GENERATE(1, 2);
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    const size_t counts[] = {0, 1, 1000, 16384, 16385, 65536, 1'000'003};
    for (const bool late : {false, true}) {
      for (const size_t count : counts) {
        const auto words = pattern(count, static_cast<uint32_t>(count));
        // The receiver is late, then early.
        const bool sleeper = late == (rank == 1);
        if (sleeper) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        const std::string wrong =
            rank == 0 ? send(group, words, 1, 7) : recv(group, words, 0, 7, 0);
        if (!wrong.empty()) return std::to_string(count) + " words: " + wrong;
      }
    }
    return "";
  }) == "");
}

TEST_CASE("messages of one source and tag arrive in order, tags are apart") {
  INFO("seed " << kSeed);
  LinkRanks ranks;
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    std::mt19937 random(kSeed);
    std::vector<std::pair<int, size_t>> messages;  // tag, words
    for (int i = 0; i < 200; ++i) {
      messages.emplace_back(static_cast<int>(random() % 3),
                            random() % 8 == 0 ? 40'000 : random() % 3000);
    }
    std::vector<std::vector<uint32_t>> buffers;
    for (size_t i = 0; i < messages.size(); ++i) {
      buffers.push_back(pattern(messages[i].second, static_cast<uint32_t>(i)));
    }
    if (rank == 0) {
      std::vector<std::shared_ptr<Transfer>> sends;
      for (size_t i = 0; i < messages.size(); ++i) {
        auto t = group.post_send(buffers[i].data(), buffers[i].size() * 4, 1, messages[i].first);
        if (!t.ok()) return t.status().to_string();
        sends.push_back(*t);
      }
      for (auto& t : sends) {
        if (const Status status = t->wait(soon()); !status.ok()) return status.to_string();
      }
      return "";
    }
    for (int tag = 2; tag >= 0; --tag) {
      for (size_t i = 0; i < messages.size(); ++i) {
        if (messages[i].first != tag) continue;
        if (std::string wrong = recv(group, buffers[i], 0, tag); !wrong.empty()) {
          return wrong;
        }
      }
    }
    return "";
  }) == "");
}

TEST_CASE("any source, all to all at once, large messages in both directions") {
  LinkRanks ranks;
  ranks.size = 4;
  ranks.ranks_per_host = GENERATE(1, 2);
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    const size_t counts[] = {10, 100'000};
    for (const size_t count : counts) {
      const auto words = pattern(count, static_cast<uint32_t>(rank));
      std::vector<std::shared_ptr<Transfer>> transfers;
      std::vector<std::vector<uint32_t>> in(3, std::vector<uint32_t>(count));
      for (auto& buffer : in) {
        transfers.push_back(*group.post_recv(buffer.data(), count * 4, kAnySource, 5));
      }
      for (int to = 0; to < 4; ++to) {
        if (to != rank) transfers.push_back(*group.post_send(words.data(), count * 4, to, 5));
      }
      for (auto& t : transfers) {
        if (const Status status = t->wait(soon()); !status.ok()) return status.to_string();
        if (!t->test()) return "not done after wait";
      }
      for (size_t i = 0; i < 3; ++i) {
        const int source = transfers[i]->source();
        if (in[i] != pattern(count, static_cast<uint32_t>(source))) return "wrong bytes";
      }
      Collective barrier;
      if (const Status status = group.run({&barrier, 1}, soon()); !status.ok()) {
        return status.to_string();
      }
    }
    return "";
  }) == "");
}

TEST_CASE("a sender far ahead is held back, not lost, and its memory stays bounded") {
  LinkRanks ranks;
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    constexpr int kMessages = 600;  // 600 x 32 KiB: more than four times the credit
    const auto words = pattern(8192, 1);
    static_assert(size_t{kMessages} * 8192 * 4 > 4 * LinkChannel::kEagerCredit);
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      for (int i = 0; i < kMessages; ++i) {
        if (std::string wrong = recv(group, words, 0, 0); !wrong.empty()) return wrong;
      }
      return "";
    }
    std::vector<std::shared_ptr<Transfer>> sends;
    for (int i = 0; i < kMessages; ++i) {
      sends.push_back(*group.post_send(words.data(), words.size() * 4, 1, 0));
    }
    int waiting = 0;
    for (auto& t : sends) waiting += t->test() ? 0 : 1;
    if (waiting < kMessages / 2) return "the sender was not held back";
    for (auto& t : sends) {
      if (const Status status = t->wait(soon()); !status.ok()) return status.to_string();
    }
    return "";
  }) == "");
}

TEST_CASE("a receive of another size fails on the receiver and names both") {
  const size_t sent = GENERATE(0, 100, 1 << 20);
  LinkRanks ranks;
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::vector<char> memory(sent + 8);
    if (rank == 0) {
      auto t = *group.post_send(memory.data(), sent, 1, 3);
      const Status status = t->wait(soon());
      const bool asked = sent > Frame::kEagerMax;
      if (status.ok() == asked) return "the sender: " + status.to_string();
      // The group goes on.
      return send(group, pattern(5, 5), 1, 3);
    }
    auto t = *group.post_recv(memory.data(), sent + 8, 0, 3);
    const Status status = t->wait(soon());
    if (status.code() != Code::kMismatch) return status.to_string();
    const std::string& text = status.message();
    if (text.find(std::to_string(sent) + " bytes") == std::string::npos) return text;
    if (text.find(std::to_string(sent + 8)) == std::string::npos) return text;
    return recv(group, pattern(5, 5), 0, 3);
  }) == "");
}

TEST_CASE("cancelled transfers leave the memory and the group alone") {
  LinkRanks ranks;
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    for (int round = 0; round < 20; ++round) {
      {
        // Receives that nothing is sent to, and sends that nothing receives, of all sizes.
        std::vector<char> small(100), large(1 << 20);
        auto a = *group.post_recv(small.data(), small.size(), 1 - rank, 100);
        auto b = *group.post_recv(large.data(), large.size(), kAnySource, 101);
        auto c = *group.post_send(large.data(), large.size(), 1 - rank, 102);
        if (a->test() || b->test()) return "something came";
      }
      const auto words = pattern(300'000, static_cast<uint32_t>(round));
      {
        // Cancelled while it moves.
        std::vector<uint32_t> memory(words.size());
        auto t = rank == 0 ? *group.post_send(words.data(), words.size() * 4, 1, 103)
                           : *group.post_recv(memory.data(), words.size() * 4, 0, 103);
        (void)t->wait(Deadline::after(std::chrono::microseconds(round * 100)));
      }
      const std::string wrong =
          rank == 0 ? send(group, words, 1, 1000 + round) : recv(group, words, 0, 1000 + round);
      if (!wrong.empty()) return wrong;
    }
    return "";
  }) == "");
}

TEST_CASE("wrong use and waiting in vain have messages") {
  LinkRanks ranks;
  CHECK(ranks.run([](int rank, Group& group) -> std::string {
    char byte = 0;
    if (group.post_send(&byte, 1, rank, 0).status().code() != Code::kInvalidArgument) {
      return "sent to itself";
    }
    if (group.post_recv(&byte, 1, 2, 0).status().code() != Code::kInvalidArgument) {
      return "received from nobody";
    }
    auto t = *group.post_recv(&byte, 1, 1 - rank, 99);
    const Status status = t->wait(Deadline::after(std::chrono::milliseconds(20)));
    if (status.code() != Code::kDeadlineExceeded) return status.to_string();
    const std::string who = "rank " + std::to_string(1 - rank) + " has not sent";
    if (status.message().find(who) == std::string::npos) return status.message();
    Collective barrier;
    const Status after = group.run({&barrier, 1}, soon());
    return after.ok() ? "" : after.to_string();
  }) == "");
}
