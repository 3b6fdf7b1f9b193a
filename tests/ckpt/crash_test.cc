// Crashes: a small job saves, commits and collects on a store that dies at EVERY operation that
// changes something, one run for each, with and without torn files; then random sequences of
// crashes, restarts and more crashes. After each: the newest step whose commit succeeded is there
// bit for bit, nothing else than it and the step that was being committed shows up, and the next
// collection leaves no garbage. Also stores that are full, stop answering, or misread. A real
// process is killed at random on a local folder too. That no operation is missed shows in the count
// of crashes that fired.
#include "ckpt/store/names.h"
#include "tests/ckpt/faulty_store.h"
#include "tests/ckpt/training.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <set>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

// The checks after a crash, with the faults gone. `before` is what train() said when it died.
void check_folder(Store& store, const Progress& before) {
  Catalog catalog(store);
  const auto steps = catalog.steps();
  REQUIRE(steps.ok());
  uint64_t newest = 0;
  for (const StepInfo& info : *steps) {
    if (!info.status.ok()) continue;
    newest = std::max(newest, info.key.step);
    const auto commit = catalog.load_commit(info.key.step);
    REQUIRE(commit.ok());
    REQUIRE(difference(catalog, store, *commit).empty());
  }
  const bool expected = newest == before.committed || newest == before.attempted;
  CAPTURE(newest, before.committed, before.attempted);
  REQUIRE(expected);
  REQUIRE(newest >= before.committed);
  const auto latest = catalog.latest();
  REQUIRE((latest.ok() ? latest->step : 0) == newest);
}

// After a collection that keeps one step: every file is the folder's owner record or needed by it.
void check_no_garbage(Store& store, uint64_t generation) {
  Catalog catalog(store);
  REQUIRE(catalog.take_over({"job", generation, "sweeper"}).ok());
  REQUIRE(catalog.collect({}).ok());
  std::set<std::string> needed = {owner_name(catalog.claim())};
  if (const auto latest = catalog.latest(); latest.ok()) {
    REQUIRE(difference(catalog, store, *latest).empty());
    needed.insert(commit_name({latest->step, latest->claim}));
    for (const PartRef& ref : latest->parts) {
      needed.insert(ref.path);
      const auto part = catalog.load_part(ref);
      for (const File& file : part->files) needed.insert(file.path);
    }
    // Its own folder is kept whole: a part of an attempt that died may lie there.
    const auto folder = store.list(step_folder(latest->step));
    for (const StoreEntry& entry : *folder) needed.insert(entry.path);
  }
  const auto all = store.list("");
  for (const StoreEntry& entry : *all) {
    CAPTURE(entry.path);
    REQUIRE(needed.contains(entry.path));
  }
}

uint64_t operations_of_a_run() {
  FaultyStore store;
  REQUIRE(train(store, 1, 3).status.ok());
  store.set({});
  REQUIRE(train(store, 2, 5).status.ok());
  return store.operations();
}

TEST_CASE("a crash at any operation loses no committed step and shows no other") {
  const uint64_t operations = operations_of_a_run();
  REQUIRE(operations > 60);
  uint64_t fired = 0;
  for (uint64_t at = 0; at < operations; ++at) {
    for (uint32_t seed = 0; seed < 6; ++seed) {
      CAPTURE(at, seed);
      FaultyStore store;
      REQUIRE(train(store, 1, 3).status.ok());
      Faults faults;
      faults.seed = seed * 1000003 + static_cast<uint32_t>(at);
      faults.crash_at = at;
      faults.tear = seed % 2 == 1;
      store.set(faults);
      Progress before = train(store, 2, 5);
      REQUIRE_FALSE(before.status.ok());
      REQUIRE(store.crashed());
      ++fired;
      before.committed = std::max(before.committed, 3 * kStepsApart);
      store.set({});
      check_folder(store, before);
      if (!faults.tear) check_no_garbage(store, 3);
      REQUIRE(train(store, 4, 2).status.ok());
    }
  }
  REQUIRE(fired == operations * 6);
}

TEST_CASE("random sequences of crashes") {
  int crashes = 0;
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    FaultyStore store;
    uint64_t committed = 0;
    for (uint64_t generation = 1; generation <= 8; ++generation) {
      Faults faults;
      faults.seed = random();
      faults.crash_at = random() % 60;
      faults.tear = seed % 4 == 0;
      store.set(faults);
      Progress progress = train(store, generation, 4);
      crashes += store.crashed() ? 1 : 0;
      store.set({});
      progress.committed = std::max(progress.committed, committed);
      progress.attempted = std::max(progress.attempted, progress.committed);
      check_folder(store, progress);
      committed = progress.committed;
      if (const auto latest = Catalog(store).latest(); latest.ok()) committed = latest->step;
    }
    if (seed % 4 != 0) check_no_garbage(store, 9);
  }
  REQUIRE(crashes > 1000);
}

TEST_CASE("a full store and one that stops answering fail the save and nothing else") {
  const uint64_t operations = operations_of_a_run();
  for (uint64_t at = 0; at < operations; ++at) {
    CAPTURE(at);
    for (const bool full : {true, false}) {
      FaultyStore store;
      REQUIRE(train(store, 1, 3).status.ok());
      Faults faults;
      (full ? faults.full_at : faults.hang_at) = at;
      faults.seed = static_cast<uint32_t>(at);
      store.set(faults);
      Progress before = train(store, 2, 5);
      // Only operations that free space may follow the last write.
      if (!full) REQUIRE(before.status.code() == Code::kDeadlineExceeded);
      if (!before.status.ok() && full) REQUIRE(before.status.code() == Code::kResourceExhausted);
      if (!full) REQUIRE(store.clock().now() - TimePoint() >= faults.patience);
      before.committed = std::max(before.committed, 3 * kStepsApart);
      before.attempted = std::max(before.attempted, before.committed);
      store.set({});
      check_folder(store, before);
      check_no_garbage(store, 3);
    }
  }
}

TEST_CASE("misreads never pass for data") {
  uint64_t faults_fired = 0;
  int loaded = 0;
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    FaultyStore store;
    REQUIRE(train(store, 1, 5).status.ok());
    Faults faults;
    faults.seed = seed;
    faults.flips = seed % 3 == 0 ? 0.1 : 0;
    faults.short_reads = seed % 3 == 1 ? 0.1 : 0;
    faults.eio = seed % 3 == 2 ? 0.1 : 0;
    store.set(faults);
    Catalog catalog(store);
    const auto latest = catalog.latest();
    if (latest.ok()) {
      const std::string wrong = difference(catalog, store, *latest);
      REQUIRE((wrong.empty() || wrong.starts_with("data loss")));
      loaded += wrong.empty() ? 1 : 0;
    }
    // A new generation that misreads must not throw away what it could not read.
    const Progress progress = train(store, 2, 2);
    faults_fired += store.read_faults();
    store.set({});
    Catalog after(store);
    REQUIRE(after.latest().ok());
    REQUIRE(after.latest()->step >= std::max<uint64_t>(progress.committed, 40));
    REQUIRE(difference(after, store, *after.latest()).empty());
  }
  REQUIRE(faults_fired > 300);
  REQUIRE(loaded > 30);
}

// Until a step after `newest` is committed in the folder, as a reader beside the writer sees it.
bool wait_for_commit(const std::string& folder, uint64_t newest) {
  constexpr int kPollsMax = 20000;
  const auto store = open_local_store(folder).value();
  for (int i = 0; i < kPollsMax; ++i) {
    const auto latest = Catalog(*store).latest();
    if (latest.ok() && latest->step > newest) return true;
    ::usleep(3000);
  }
  return false;
}

TEST_CASE("a process killed at random on a local folder") {
  TempFolder folder;
  std::mt19937 random(3);
  uint64_t newest = 0;
  int killed = 0;
  for (uint64_t generation = 1; generation <= 25; ++generation) {
    CAPTURE(generation);
    const pid_t child = ::fork();
    if (child == 0) {
      const auto store = open_local_store(folder.path()).value();
      train(*store, generation, 1000000);
      ::_exit(1);
    }
    // Every second one gets as far as a new commit, however slow the disk is.
    if (generation % 2 == 0) REQUIRE(wait_for_commit(folder.path(), newest));
    ::usleep(random() % 60000);
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    killed += WIFSIGNALED(status) ? 1 : 0;
    const auto store = open_local_store(folder.path()).value();
    Catalog catalog(*store);
    const auto latest = catalog.latest();
    const uint64_t step = latest.ok() ? latest->step : 0;
    REQUIRE(step >= newest);
    newest = step;
    if (latest.ok()) REQUIRE(difference(catalog, *store, *latest).empty());
  }
  REQUIRE(killed == 25);
  REQUIRE(newest > 0);
  const auto store = open_local_store(folder.path()).value();
  check_no_garbage(*store, 26);
}

}  // namespace
}  // namespace convoy::ckpt
