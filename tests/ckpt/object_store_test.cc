// Object stores. Method: the S3 protocol of a real server (moto, in memory) behind a proxy that
// fails as told (s3_server.py), and Arrow's file system in memory for those that offer less. The
// suite of all stores; each fault once where it is mended and once where it is not, with its count
// to show that it fired; what is left at the server is asked of the server. Not checked: GCS, Azure
// and HDFS themselves, TLS, credentials of roles, speed.
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/s3_proxy.h"
#include "tests/ckpt/store_suite.h"
#include "tests/ckpt/training.h"
#include <convoy/ckpt/catalog.h>

#include <catch2/catch.hpp>

#include <chrono>
#include <random>
#include <thread>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMiB = size_t{1} << 20;

StoreOptions quick() {
  StoreOptions options;
  options.tries_max = 4;
  options.settle = 1ms;
  return options;
}

std::unique_ptr<Store> open(const std::string& uri, const StoreOptions& options = quick()) {
  auto store = open_store(uri, options);
  INFO(store.status().to_string());
  REQUIRE(store.ok());
  return std::move(store).value();
}

std::string fresh(const std::string& name) {
  static int count = 0;
  return name + "-" + std::to_string(count++);
}

std::vector<std::byte> random_bytes(size_t size) {
  std::mt19937_64 random(size);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

Status write_large(Store& store, const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_ASSIGN_OR_RETURN(const auto writer, store.open_writer(path));
  for (size_t at = 0; at < bytes.size(); at += 3 * kMiB) {
    CONVOY_RETURN_IF_ERROR(
        writer->append(bytes.subspan(at, std::min(3 * kMiB, bytes.size() - at))));
  }
  return writer->finish();
}

// Unfinished uploads under the store's folder, which are dropped by asking.
uint64_t left_over(Store& store) {
  const auto dropped = store.drop_unfinished([](const std::string&) { return true; });
  INFO(dropped.status().to_string());
  REQUIRE(dropped.ok());
  return *dropped;
}

}  // namespace

TEST_CASE("an S3 store keeps a store's promises") {
  check_store([] { return open(s3_uri(fresh("suite"))); });
  CHECK(seen_s3("if-none-match") > 160);
  clear_s3();
}

TEST_CASE("a server without conditions is found out, and a store keeps its promises on it") {
  clear_s3();
  arm_s3({"ignored", "if-none-match", "ignore", 0, 1 << 30});
  check_store([] { return open(s3_uri(fresh("ignored"))); });
  CHECK(fired_s3("ignored") > 0);
  clear_s3();
}

TEST_CASE("a file system that only moves keeps a store's promises") {
  check_store([] { return open("mock:///" + fresh("folder")); });
}

TEST_CASE("what may be transient is tried again") {
  const auto store = open(s3_uri("transient"));
  REQUIRE(store->create_new("warm", {}).ok());
  REQUIRE(store->put("old", bytes_of("0123456789")).ok());
  const auto large = random_bytes(25 * kMiB);
  struct Case {
    std::string match, action;
    int arg;
  };
  const Case cases[] = {
      {"^PUT /convoy/transient/file", "status", 503},
      {"^PUT /convoy/transient/file", "status", 500},
      {"^PUT /convoy/transient/file", "cut_request", 2},
      {"^PUT /convoy/transient/file", "drop", 0},
      {"^GET /convoy/transient/old", "status", 503},
      {"^GET /convoy/transient/old", "cut_response", 3},
      {"^GET /convoy/transient/old", "drop", 0},
      {"^GET /convoy/?\\?.*list-type", "status", 500},
      {"^GET /convoy/?\\?.*list-type", "drop", 0},
      {"^PUT /convoy/transient/new.* if-none-match", "status", 503},
      {"^PUT /convoy/transient/new.* if-none-match", "cut_request", 1},
      {"^DELETE /convoy/transient/new", "status", 500},
      {"^POST /convoy/transient/large.*uploads", "status", 503},
      {"^PUT /convoy/transient/large.*partNumber=2", "status", 503},
      {"^PUT /convoy/transient/large.*partNumber=2", "cut_request", 1 << 20},
      {"^PUT /convoy/transient/large.*partNumber=1", "drop", 0},
      {"^POST /convoy/transient/large.*uploadId", "status", 500},
  };
  for (const Case& fault : cases) {
    CAPTURE(fault.match, fault.action);
    clear_s3();
    arm_s3({"it", fault.match, fault.action, fault.arg, 2});
    CHECK(store->put("file", bytes_of("content")).ok());
    CHECK(content(*store, "file") == "content");
    CHECK(content(*store, "old") == "0123456789");
    std::vector<std::byte> some(4);
    CHECK(store->read_at("old", 3, some).ok());
    CHECK(text_of(some) == "3456");
    CHECK(paths(*store, "ol") == std::vector<std::string>{"old"});
    CHECK(store->create_new("new", bytes_of("new")).ok());
    CHECK(store->create_new("new", bytes_of("new")).code() == Code::kAlreadyExists);
    CHECK(store->remove("new").ok());
    if (fault.match.find("large") != std::string::npos) {
      const Status written = write_large(*store, "large", large);
      INFO(written.to_string());
      CHECK(written.ok());
      CHECK(*store->get("large", 100 * kMiB) == large);
    }
    CHECK(fired_s3("it") == 2);
  }
  clear_s3();
  CHECK(left_over(*store) == 0);
}

TEST_CASE("a creation whose answer is lost is still that of one") {
  clear_s3();
  const auto store = open(s3_uri("lost"));
  REQUIRE(store->create_new("warm", {}).ok());
  arm_s3({"lost", "^PUT /convoy/lost/mine.*if-none-match", "drop"});
  CHECK(store->create_new("mine", bytes_of("mine")).ok());  // was there at the second try: ours
  CHECK(fired_s3("lost") == 1);
  REQUIRE(store->put("theirs", bytes_of("theirs")).ok());
  arm_s3({"cut", "^PUT /convoy/lost/theirs.*if-none-match", "cut_request", 1});
  CHECK(store->create_new("theirs", bytes_of("mine")).code() == Code::kAlreadyExists);
  CHECK(fired_s3("cut") == 1);
  clear_s3();
}

TEST_CASE("what trying again can't mend is said at once, in the server's words") {
  clear_s3();
  const auto store = open(s3_uri("refused"));
  REQUIRE(store->create_new("warm", {}).ok());
  std::vector<std::byte> some(1);
  const std::function<Status()> calls[] = {
      [&] { return store->put("x", bytes_of("x")); },
      [&] { return store->get("x", 10).status(); },
      [&] { return store->read_at("x", 0, some); },
      [&] { return store->list("").status(); },
      [&] { return store->create_new("x", bytes_of("x")); },
      [&] { return store->remove("x"); },
  };
  for (const auto& [http, word, advice] :
       {std::tuple{403, "AccessDenied", "Give credentials that may read, write, list and delete"},
        std::tuple{400, "ExpiredToken", "The credentials have expired"}}) {
    int number = 0;
    for (const auto& call : calls) {
      CAPTURE(http, number++);
      clear_s3();
      arm_s3({"no", "/convoy", "status", http, 100, 0, word});
      const Status status = call();
      CAPTURE(status.to_string());
      CHECK(status.code() == Code::kInvalidArgument);
      CHECK(status.message().find(advice) != std::string::npos);
      CHECK(status.message().find("s3://convoy/refused") != std::string::npos);
      CHECK(fired_s3("no") == 1);
    }
  }
  clear_s3();
  arm_s3({"throttled", "^PUT /convoy/refused/x", "status", 503, 100, 0, "SlowDown"});
  const Status throttled = store->put("x", bytes_of("x"));
  CHECK(throttled.code() == Code::kUnavailable);
  CHECK(fired_s3("throttled") == quick().tries_max);
  clear_s3();
}

TEST_CASE("a missing bucket and nonsense are told when the store is opened") {
  std::string uri = s3_uri("x");
  uri.replace(uri.find("convoy"), 6, "absent");
  const Status absent = open_store(uri, quick()).status();
  CHECK(absent.code() == Code::kNotFound);
  CHECK(absent.message() ==
        "cannot open s3://absent/x: there is no such bucket. Make it first, or correct its name.");
  CHECK(open_store("s3://convoy/x?no_such=1").status().code() == Code::kInvalidArgument);
  CHECK(open_store("nothing://x/y").status().code() == Code::kInvalidArgument);
  CHECK(open_store("file:relative").status().code() == Code::kNotFound);  // a path
  CHECK(open_store("file://host/x").status().code() == Code::kInvalidArgument);
  CHECK(open_store("/no/such/folder").status().code() == Code::kNotFound);
}

TEST_CASE("names and messages keep credentials to themselves") {
  std::string uri = s3_uri("named");
  uri.insert(5, "test:test-secret@");
  const auto store = open(uri);
  CHECK(store->name() == "s3://convoy/named");
  const Status status = store->get("none", 1).status();
  CHECK(status.code() == Code::kNotFound);
  CHECK(status.message().find("secret") == std::string::npos);
  CHECK(status.message().find("s3://convoy/named/none") != std::string::npos);
}

TEST_CASE("a large file is parts in flight, whole or not at all") {
  clear_s3();
  const auto store = open(s3_uri("large"));
  const auto bytes = random_bytes(64 * kMiB + 12345);
  REQUIRE(write_large(*store, "a", bytes).ok());
  CHECK(seen_s3("^PUT /convoy/large/a.*partNumber") == 7);
  CHECK(*store->get("a", 100 * kMiB) == bytes);
  std::vector<std::byte> some(3 * kMiB);
  REQUIRE(store->read_at("a", 33 * kMiB, some).ok());
  CHECK(std::equal(some.begin(), some.end(), bytes.begin() + 33 * kMiB));
  arm_s3({"part", "^PUT /convoy/large/b.*partNumber=4", "status", 500, 100});
  CHECK(write_large(*store, "b", bytes).code() == Code::kUnavailable);
  CHECK(fired_s3("part") == quick().tries_max);
  CHECK(content(*store, "b") == "not found");
  CHECK(left_over(*store) == 0);
  {
    auto dropped = store->open_writer("c");
    REQUIRE((*dropped)->append(std::span(bytes).first(20 * kMiB)).ok());
  }
  CHECK(left_over(*store) == 0);
  clear_s3();
}

TEST_CASE("an upload that could not be dropped is found later") {
  clear_s3();
  const auto store = open(s3_uri("left"));
  const auto bytes = random_bytes(20 * kMiB);
  arm_s3({"abort", "^DELETE /convoy/left/a.*uploadId", "status", 403, 100, 0, "AccessDenied"});
  {
    auto dropped = store->open_writer("a");
    REQUIRE((*dropped)->append(bytes).ok());
  }
  CHECK(fired_s3("abort") >= 1);
  clear_s3();
  const auto nobody = store->drop_unfinished([](const std::string& path) { return path != "a"; });
  CHECK(*nobody == 0);
  CHECK(left_over(*store) == 1);
  CHECK(left_over(*store) == 0);
  CHECK(paths(*store, "").empty());
}

TEST_CASE("a store that stops answering costs a deadline, and is used again when it answers") {
  clear_s3();
  StoreOptions options = quick();
  options.timeout = 2s;
  options.stall_limit = 20s;
  // On a busy machine the deadline may be too short for an honest answer, too.
  std::unique_ptr<Store> store;
  Status ready;
  for (int i = 0; i < 20 && store == nullptr; ++i) {
    auto opened = open_store(s3_uri("hanging"), options);
    ready = opened.status();
    if (opened.ok()) store = std::move(opened).value();
  }
  INFO(ready.to_string());
  REQUIRE(store != nullptr);
  for (int i = 0; i < 20 && !store->put("warm", bytes_of("warm")).ok(); ++i) continue;
  std::vector<std::byte> some(1);
  const std::function<Status()> calls[] = {
      [&] { return store->put("x", bytes_of("x")); },
      [&] { return store->get("warm", 10).status(); },
      [&] { return store->read_at("warm", 0, some); },
      [&] { return store->list("").status(); },
      [&] { return store->create_new("y", bytes_of("y")); },
      [&] { return store->remove("z"); },
  };
  for (const auto& call : calls) {
    clear_s3();
    arm_s3({"hang", "/convoy", "hang", 6000, 100});
    const Status status = call();
    CAPTURE(status.to_string());
    const bool told =
        status.code() == Code::kDeadlineExceeded || status.code() == Code::kUnavailable;
    CHECK(told);
    CHECK(fired_s3("hang") >= 1);
  }
  clear_s3();
  for (int i = 0; i < 20 && content(*store, "warm") != "warm"; ++i) continue;
  CHECK(content(*store, "warm") == "warm");
}

TEST_CASE("a stalled request is given up before the call's deadline, and tried again") {
  clear_s3();
  StoreOptions options = quick();
  options.stall_limit = 1s;
  const auto store = open(s3_uri("stalled"), options);
  REQUIRE(store->put("x", bytes_of("x")).ok());
  arm_s3({"stall", "^GET /convoy/stalled/x", "hang", 30000, 1});
  arm_s3({"stall", "^PUT /convoy/stalled/y", "hang", 30000, 1});
  CHECK(content(*store, "x") == "x");
  CHECK(store->put("y", bytes_of("y")).ok());
  CHECK(fired_s3("stall") == 2);
  clear_s3();
}

TEST_CASE("writing keeps to its bandwidth") {
  StoreOptions options = quick();
  options.bandwidth = 8 * kMiB;
  const auto store = open(s3_uri("slow", true), options);
  const auto begin = Clock::system().now();
  REQUIRE(write_large(*store, "x", random_bytes(25 * kMiB)).ok());
  CHECK(Clock::system().now() - begin >= 2s);  // the last part is not waited for
}

TEST_CASE("a job that trains on S3, and one that takes over from it") {
  clear_s3();
  const auto store = open(s3_uri("train"));
  REQUIRE(train(*store, 1, 5).status.ok());
  Catalog catalog(*store);
  REQUIRE(catalog.take_over({"job", 2, "test"}).ok());
  const auto latest = catalog.latest();
  REQUIRE(latest.ok());
  CHECK(difference(catalog, *store, *latest).empty());
  CHECK(catalog.verify(latest->step)->ok());
  // Faults all over: the newest commit that succeeded stays whole.
  const char* const actions[] = {"status", "drop", "cut_request", "cut_response"};
  int fired = 0;
  uint64_t newest = latest->step;
  for (int i = 0; i < 24; ++i) {
    CAPTURE(i);
    clear_s3();
    arm_s3({"fault", "/convoy", actions[i % 4], i % 4 == 0 ? 503 : 1, 4, 3 * i});
    const Progress progress = train(*store, 3 + static_cast<uint64_t>(i), 2);
    fired += fired_s3("fault");
    clear_s3();
    Catalog after(*store);
    const auto now = after.latest();
    REQUIRE(now.ok());
    CHECK(now->step >= std::max(newest, progress.committed));
    CHECK(difference(after, *store, *now).empty());
    newest = now->step;
  }
  CHECK(fired >= 24);
  CHECK(newest > latest->step);
}

}  // namespace convoy::ckpt
