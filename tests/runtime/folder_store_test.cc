// The store in which ranks of one machine meet: what c10d promises of a store, and that a writer
// which is killed, whenever, leaves nothing that others wait for.
#include "src/runtime/folder_store.h"

#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <random>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using convoy::TempFolder;
using convoy::runtime::FolderStore;
using std::chrono::milliseconds;

namespace {

std::vector<uint8_t> bytes(const std::string& text) {
  return {text.begin(), text.end()};
}

}  // namespace

TEST_CASE("keys are set, read, counted, compared and deleted") {
  const TempFolder folder;
  FolderStore store(folder.path() + "/store");
  const std::string odd = "mesh/tp,pp[0]/a=b%/\n";
  CHECK_FALSE(store.check({odd}));
  store.set(odd, bytes("one"));
  store.set("empty", {});
  CHECK(store.check({odd, "empty"}));
  CHECK(store.clone()->get(odd) == bytes("one"));
  CHECK(store.get("empty").empty());
  CHECK(store.getNumKeys() == 2);
  CHECK(store.compareSet(odd, bytes("two"), bytes("three")) == bytes("one"));
  CHECK(store.compareSet(odd, bytes("one"), bytes("three")) == bytes("three"));
  CHECK(store.compareSet("new", {}, bytes("first")) == bytes("first"));
  CHECK(store.deleteKey(odd));
  CHECK_FALSE(store.deleteKey(odd));
  store.setTimeout(milliseconds(20));
  CHECK_THROWS_WITH(store.get("absent"), Catch::Contains("absent"));
  CHECK_THROWS_AS(store.set(std::string(300, 'k'), {}), c10::DistStoreError);
}

TEST_CASE("processes that add to one key lose nothing") {
  const TempFolder folder;
  constexpr int kProcesses = 4, kTimes = 200;
  for (int p = 0; p < kProcesses; ++p) {
    if (::fork() != 0) continue;
    FolderStore store(folder.path());
    for (int i = 0; i < kTimes; ++i) store.add("sum", 1);
    ::_exit(0);
  }
  for (int p = 0; p < kProcesses; ++p) ::wait(nullptr);
  CHECK(FolderStore(folder.path()).add("sum", 0) == kProcesses * kTimes);
}

TEST_CASE("a writer that is halted or killed, whenever, holds nobody up") {
  const TempFolder folder;
  FolderStore store(folder.path());
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const pid_t writer = ::fork();
    if (writer == 0) {
      FolderStore own(folder.path());
      for (int i = 0;; ++i) own.set("key" + std::to_string(i % 8), std::vector<uint8_t>(5000, 7));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(2000 + random() % 2000));
    ::kill(writer, SIGSTOP);
    ::waitpid(writer, nullptr, WUNTRACED);
    store.set("own", bytes(std::to_string(round)));
    ::kill(writer, SIGKILL);
    ::waitpid(writer, nullptr, 0);
    CHECK(store.get("own") == bytes(std::to_string(round)));
    for (int i = 0; i < 8; ++i) {
      const std::string key = "key" + std::to_string(i);
      if (store.check({key})) CHECK(store.get(key) == std::vector<uint8_t>(5000, 7));
    }
  }
}
