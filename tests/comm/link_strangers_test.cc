// Strangers at the door, and bytes that no rank would send. A group goes on working while clients
// send nonsense, half a greeting, a wrong secret, nothing, or huge lengths; decoders of greetings,
// requests and frames get random bytes and damaged real ones from a printed seed, and must answer
// without touching memory that is not theirs (the address sanitizer watches). Not checked: floods.
#include "src/comm/host/link_frame.h"
#include "src/comm/host/link_signature.h"
#include "src/comm/host/tcp_socket.h"
#include "tests/comm/link_ranks.h"

#include <cstring>
#include <poll.h>
#include <random>
#include <sys/socket.h>

using namespace convoy;
using namespace convoy::host;

namespace {

constexpr unsigned kSeed = 99;

// Connects and sends `bytes`; returns whether the other side hangs up without having said a word.
bool is_dropped(const TcpAddress& address, const std::string& bytes) {
  auto fd = tcp_start_connect(address);
  if (!fd.ok()) return false;
  pollfd entry{fd->get(), POLLOUT, 0};
  if (::poll(&entry, 1, 10'000) != 1) return false;
  (void)!::send(fd->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  entry.events = POLLIN;
  if (::poll(&entry, 1, 20'000) != 1) return false;
  char answer[8];
  return ::recv(fd->get(), answer, sizeof answer, 0) <= 0;
}

std::string greeting(uint64_t secret) {
  Hello hello;
  hello.token_high = hello.token_low = secret;
  char bytes[Hello::kBytes];
  hello.encode(bytes);
  return {bytes, sizeof bytes};
}

}  // namespace

TEST_CASE("strangers are dropped and the group goes on") {
  LocalStore store;
  LinkRanks ranks;
  std::string wrong;
  std::vector<std::thread> threads;
  std::atomic<bool> over{false};
  std::string texts[2];
  for (const int r : {0, 1}) {
    threads.emplace_back([&, r] {
      texts[r] = ranks.run_one(r, store, [&](int, Group& group) -> std::string {
        int64_t value = 1;
        while (value == 1) {
          value = over ? 2 : 1;
          Collective op;
          op.kind = OpKind::kAllReduce;
          op.dtype = DType::kI64;
          op.reduce = ReduceOp::kMin;
          op.in = op.out = {{&value, 1}};
          if (const Status status = group.run({&op, 1}, soon()); !status.ok()) {
            return status.to_string();
          }
        }
        return "";
      });
    });
  }
  auto record = store.get("links/link/0", soon());
  REQUIRE(record.ok());
  auto address = TcpAddress::parse(record->substr(2, record->find(' ', 2) - 2));
  REQUIRE(address.ok());
  CHECK(is_dropped(*address, "GET / HTTP/1.1\r\nHost: convoy\r\n\r\n" + std::string(64, ' ')));
  CHECK(is_dropped(*address, std::string(1 << 20, '\xff')));
  CHECK(is_dropped(*address, greeting(0)));
  CHECK(is_dropped(*address, greeting(0x1234)));
  // Half a greeting, and silence: after some seconds.
  bool silent_dropped = false;
  std::thread silent([&] { silent_dropped = is_dropped(*address, ""); });
  CHECK(is_dropped(*address, greeting(1).substr(0, 20)));
  silent.join();
  CHECK(silent_dropped);
  over = true;
  for (auto& thread : threads) thread.join();
  CHECK(texts[0] == "");
  CHECK(texts[1] == "");
}

TEST_CASE("decoders survive any bytes") {
  INFO("seed " << kSeed);
  std::mt19937 random(kSeed);
  std::vector<Collective> ops(3);
  std::vector<float> memory(16);
  ops[0].kind = OpKind::kAllReduce;
  ops[0].in = ops[0].out = {{memory.data(), 16}};
  ops[1].kind = OpKind::kAllToAll;
  ops[1].in = ops[1].out = {{memory.data(), 1}, {memory.data(), 2}, {memory.data(), 3}};
  ops[2].kind = OpKind::kBroadcast;
  ops[2].out = {{memory.data(), 4}};
  const std::string real = encode_signatures(ops, 0, 3);
  auto decoded = decode_signatures(real, 0, 3);
  REQUIRE(decoded.ok());
  for (size_t i = 0; i < ops.size(); ++i) CHECK((*decoded)[i] == op_signature(ops[i], 0, 3));
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = real;
    if (i % 2 == 0) {
      bytes.resize(random() % 200);
      for (char& c : bytes) c = static_cast<char>(random());
    } else {
      for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << (random() % 8));
      }
      if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 1));
    }
    auto request = decode_signatures(bytes, 0, 3);
    if (!request.ok()) continue;
    ++accepted;
    // What was understood can be compared and told.
    (void)check_agreement({*request, *decoded, *decoded}, {0, 1, 2});
  }
  CHECK(accepted < 15'000);
  for (int i = 0; i < 20'000; ++i) {
    char hello[Hello::kBytes], frame[Frame::kBytes];
    const std::string good = greeting(random());
    std::memcpy(hello, good.data(), sizeof hello);
    Frame real_frame;
    real_frame.type = static_cast<FrameType>(1 + random() % 8);
    real_frame.bytes = random() % 1000;
    real_frame.encode(frame);
    hello[random() % sizeof hello] ^= static_cast<char>(1 + random() % 255);
    frame[random() % sizeof frame] ^= static_cast<char>(1 + random() % 255);
    (void)Hello::decode(hello);
    const auto decoded_frame = Frame::decode(frame);
    if (decoded_frame.ok()) {
      CHECK(decoded_frame->payload_bytes() <= Frame::kFragmentMax);
    }
  }
}

TEST_CASE("addresses are written and read") {
  for (const char* text : {"10.0.0.1:4711", "[fd00::1]:1", "127.0.0.1:65535"}) {
    auto address = TcpAddress::parse(text);
    REQUIRE(address.ok());
    CHECK(address->to_string() == text);
  }
  for (const char* text : {"", ":", "10.0.0.1", "10.0.0.1:", ":1", "a:65536", "a:-1", "a:1x"}) {
    INFO(text);
    CHECK_FALSE(TcpAddress::parse(text).ok());
  }
  CHECK(choose_address("127.0.0.1").value() == "127.0.0.1");
  CHECK(choose_address("no.such.host.invalid").status().code() == Code::kInvalidArgument);
}
