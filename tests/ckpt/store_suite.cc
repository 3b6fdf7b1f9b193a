#include "tests/ckpt/store_suite.h"

#include "tests/ckpt/bytes.h"

#include <catch2/catch.hpp>

#include <atomic>
#include <thread>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kMost = 1 << 20;

}  // namespace

std::string content(Store& store, const std::string& path) {
  const auto bytes = store.get(path, kMost);
  return bytes.ok() ? text_of(*bytes) : std::string(code_name(bytes.status().code()));
}

std::vector<std::string> paths(Store& store, const std::string& prefix) {
  const auto entries = store.list(prefix);
  REQUIRE(entries.ok());
  std::vector<std::string> out;
  for (const StoreEntry& entry : *entries) out.push_back(entry.path);
  return out;
}

namespace {

void small_files(Store& store) {
  REQUIRE(content(store, "a/b") == "not found");
  REQUIRE(store.put("a/b", bytes_of("one")).ok());
  REQUIRE(store.put("a/b", bytes_of("three")).ok());
  REQUIRE(content(store, "a/b") == "three");
  REQUIRE(store.create_new("a/b", bytes_of("x")).code() == Code::kAlreadyExists);
  REQUIRE(store.create_new("a/c", {}).ok());
  REQUIRE(content(store, "a/b") == "three");
  REQUIRE(content(store, "a/c").empty());
  REQUIRE(store.get("a/b", 4).status().code() == Code::kDataLoss);
}

void ranges(Store& store) {
  REQUIRE(store.put("r", bytes_of("0123456789")).ok());
  std::vector<std::byte> out(4);
  REQUIRE(store.read_at("r", 6, out).ok());
  REQUIRE(text_of(out) == "6789");
  REQUIRE(store.read_at("r", 7, out).code() == Code::kDataLoss);
  REQUIRE(store.read_at("r", uint64_t{1} << 40, out).code() == Code::kDataLoss);
  REQUIRE(store.read_at("none", 0, out).code() == Code::kNotFound);
}

void writers(Store& store) {
  auto writer = store.open_writer("w/x");
  REQUIRE(writer.ok());
  REQUIRE((*writer)->append(bytes_of("ab")).ok());
  REQUIRE((*writer)->append(bytes_of("cd")).ok());
  REQUIRE(paths(store, "w").empty());
  REQUIRE((*writer)->finish().ok());
  REQUIRE(content(store, "w/x") == "abcd");
  auto second = store.open_writer("w/x");
  REQUIRE((*second)->append(bytes_of("new")).ok());
  REQUIRE(content(store, "w/x") == "abcd");
  REQUIRE((*second)->finish().ok());
  REQUIRE(content(store, "w/x") == "new");
  for (const bool explicitly : {true, false}) {
    auto dropped = store.open_writer("w/y");
    REQUIRE((*dropped)->append(bytes_of("zz")).ok());
    if (explicitly) (*dropped)->abandon();
  }
  REQUIRE(paths(store, "w") == std::vector<std::string>{"w/x"});
}

void lists_and_removal(Store& store) {
  for (const char* path : {"l/2/b", "l/10", "l/2/a", "lx", "m"}) {
    REQUIRE(store.put(path, bytes_of(path)).ok());
  }
  REQUIRE(paths(store, "l") == std::vector<std::string>{"l/10", "l/2/a", "l/2/b", "lx"});
  REQUIRE(paths(store, "l/2") == std::vector<std::string>{"l/2/a", "l/2/b"});
  REQUIRE(paths(store, "l/2/") == std::vector<std::string>{"l/2/a", "l/2/b"});
  REQUIRE(paths(store, "l/3").empty());
  REQUIRE(store.list("l/10")->front() == StoreEntry{"l/10", 4});
  REQUIRE(store.remove("l/2/a").ok());
  REQUIRE(store.remove("l/2/a").ok());
  REQUIRE(store.remove("l/2/b").ok());
  REQUIRE(store.remove("nowhere/at/all").ok());
  REQUIRE(store.sync().ok());
  REQUIRE(paths(store, "l") == std::vector<std::string>{"l/10", "lx"});
  REQUIRE(store.put("l/2/c", {}).ok());
}

void refused_paths(Store& store) {
  for (const std::string& path :
       {std::string("/a"), std::string("../a"), std::string("a/../../b"), std::string(""),
        std::string("a//b"), std::string("a/"), std::string("./a"), std::string("a\0b", 3),
        std::string(2000, 'a')}) {
    CAPTURE(path);
    std::vector<std::byte> out(1);
    REQUIRE(store.put(path, {}).code() == Code::kInvalidArgument);
    REQUIRE(store.create_new(path, {}).code() == Code::kInvalidArgument);
    REQUIRE(store.open_writer(path).status().code() == Code::kInvalidArgument);
    REQUIRE(store.get(path, 1).status().code() == Code::kInvalidArgument);
    REQUIRE(store.read_at(path, 0, out).code() == Code::kInvalidArgument);
    REQUIRE(store.remove(path).code() == Code::kInvalidArgument);
  }
}

// Of many creators one wins, and files come and go in folders that others empty.
void threads(Store& store) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 40;
  std::atomic<int> created = 0;
  std::atomic<int> failed = 0;
  std::vector<std::thread> team;
  for (int t = 0; t < kThreads; ++t) {
    team.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const std::string name = std::to_string(i);
        const Status status = store.create_new("race/" + name, bytes_of(std::to_string(t)));
        if (status.ok()) ++created;
        if (!status.ok() && status.code() != Code::kAlreadyExists) ++failed;
        const std::string own = "deep/er/" + std::to_string(t);
        if (!store.put(own, bytes_of(name)).ok() || !store.remove(own).ok()) ++failed;
      }
    });
  }
  for (std::thread& thread : team) thread.join();
  REQUIRE(failed == 0);
  REQUIRE(created == kRounds);
  REQUIRE(paths(store, "deep").empty());
}

}  // namespace

void check_store(const std::function<std::unique_ptr<Store>()>& make) {
  for (const auto test :
       {&small_files, &ranges, &writers, &lists_and_removal, &refused_paths, &threads}) {
    const std::unique_ptr<Store> store = make();
    test(*store);
  }
}

}  // namespace convoy::ckpt
