// The catalog's rules one by one, on a store in memory or, run a second time, in S3: who may
// commit, what a commit demands, what counts, what collection removes and leaves, what verify
// finds. Crashes are crash_test.cc's.
#include "ckpt/manifest/frame.h"
#include "ckpt/store/names.h"
#include "tests/ckpt/any_store.h"
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/training.h"

#include <catch2/catch.hpp>

#include <algorithm>

namespace convoy::ckpt {
namespace {

constexpr int64_t kNow = 1764110674000000000;

Catalog owned(Store& store, uint64_t generation, const std::string& job = "job") {
  Catalog catalog(store, [] { return kNow; });
  REQUIRE(catalog.take_over({job, generation, "host-a:12"}).ok());
  return catalog;
}

std::vector<uint64_t> committed(Store& store) {
  std::vector<uint64_t> steps;
  const auto infos = Catalog(store).steps();
  REQUIRE(infos.ok());
  for (const StepInfo& info : *infos) {
    if (info.status.ok()) steps.push_back(info.key.step);
  }
  return steps;
}

void flip(Store& store, const std::string& path, size_t at) {
  auto bytes = *store.get(path, 1 << 20);
  bytes[at] ^= std::byte{1};
  REQUIRE(store.put(path, bytes).ok());
}

TEST_CASE("names are understood only as they are written") {
  REQUIRE(part_name({120, 7}, 3, 12) == "data/s000000000120/c00000007-g3/n00012.part");
  REQUIRE(data_name({120, 7}, 3, 12, 0) == "data/s000000000120/c00000007-g3/n00012-000.chunks");
  REQUIRE(commit_name({120, 7}) == "commits/s000000000120-c00000007");
  const CommitKey huge{~uint64_t{0}, uint64_t{1} << 61};
  REQUIRE(parse_commit(commit_name(huge)) == huge);
  REQUIRE(parse_data(part_name(huge, 9, 1)) == huge);
  REQUIRE(parse_data(data_name(huge, 9, 1, 5000)) == huge);
  for (const char* path :
       {"data/s000000000120/c00000007-g3/n00012.part.bak", "data/s120/c00000007-g3/n00012.part",
        "data/s000000000120/c00000007-g3/x", "data/x", "commits/s000000000120-c00000007"}) {
    REQUIRE_FALSE(parse_data(path).has_value());
  }
  REQUIRE_FALSE(parse_commit("commits/s000000000120-c00000007~").has_value());
  REQUIRE_FALSE(parse_owner("owner/c7").has_value());
  REQUIRE_FALSE(parse_owner("owner/c18446744073709551615").has_value());
}

TEST_CASE("a folder belongs to one job and its newest generation") {
  AnyStore store;
  Catalog first = owned(store, 5);
  REQUIRE(first.claim() == 1);
  Catalog other(store);
  const Status refused = other.take_over({"other", 9, "host-b:1"});
  REQUIRE(refused.code() == Code::kFailedPrecondition);
  REQUIRE(refused.message() ==
          "checkpoint folder memory belongs to job 'job' generation 5 (host-a:12) since 2025-11-25 "
          "22:44:34 UTC, not to job 'other': give another folder, or take it over by force if that "
          "job has ended.");
  REQUIRE(other.take_over({"job", 4, "host-b:1"})
              .message()
              .find("which is newer than generation 4: this process is of a generation that was "
                    "replaced") != std::string::npos);
  REQUIRE(save(first, store, 10).ok());
  Catalog second = owned(store, 6);
  REQUIRE(second.claim() == 2);
  const Status lost = save(first, store, 20);
  REQUIRE(lost.code() == Code::kFailedPrecondition);
  REQUIRE(lost.message().find("was taken over by job 'job' generation 6 (host-a:12) since") !=
          std::string::npos);
  REQUIRE(first.collect({}).status().code() == Code::kFailedPrecondition);
  REQUIRE(save(second, store, 20).ok());
  REQUIRE(committed(store) == std::vector<uint64_t>{20, 10});
  REQUIRE(other.take_over({"other", 1, "host-b:1"}, true).ok());
  REQUIRE(save(second, store, 30).code() == Code::kFailedPrecondition);
  REQUIRE(save(other, store, 30).ok());
  REQUIRE((*other.owner())->job == "other");
  REQUIRE(store.list("owner/")->size() == 1);
}

TEST_CASE("an owner that has ended says so, and tools follow it as the same job") {
  AnyStore store;
  Catalog job = owned(store, 3);
  REQUIRE(save(job, store, 10).ok());
  REQUIRE_FALSE((*job.owner())->released);
  REQUIRE(job.release().ok());
  REQUIRE(job.claim() == 0);
  const auto ended = job.owner();
  REQUIRE((*ended)->released);
  REQUIRE(committed(store) == std::vector<uint64_t>{10});

  Catalog tool(store, [] { return kNow; });
  REQUIRE(tool.follow(**ended, "tool").ok());
  REQUIRE(tool.claim() == 2);
  REQUIRE((*tool.owner())->job == "job");
  REQUIRE_FALSE((*tool.owner())->released);
  Catalog late(store);  // saw the folder before the other tool came
  REQUIRE(late.follow(**ended, "late").code() == Code::kUnavailable);
  REQUIRE(save(tool, store, 20).ok());

  Catalog again = owned(store, 3);  // the job's next start
  REQUIRE(tool.release().code() == Code::kFailedPrecondition);
  REQUIRE(committed(store) == std::vector<uint64_t>{20, 10});
  REQUIRE(save(again, store, 30).ok());
}

TEST_CASE("a preview tells what collection will do, and changes nothing") {
  AnyStore store;
  Catalog job = owned(store, 1);
  for (uint64_t step = 10; step <= 60; step += 10) REQUIRE(save(job, store, step).ok());
  REQUIRE(write_data(job, store, 70).ok());  // never committed
  REQUIRE(job.release().ok());
  const auto before = *store.list("");
  KeepPolicy policy;
  policy.newest = 2;
  policy.pins = {20};
  const auto seen = Catalog(store).preview(policy);
  REQUIRE(seen.ok());
  REQUIRE(*store.list("") == before);
  REQUIRE(seen->steps == std::vector<uint64_t>{40, 30, 10});
  Catalog tool(store);
  REQUIRE(tool.follow(**tool.owner(), "tool").ok());
  const auto own = tool.preview(policy);
  const auto done = tool.collect(policy);
  REQUIRE((own.ok() && done.ok()));
  for (const Collected& one : {*own, *done}) {
    REQUIRE(one.steps == seen->steps);
    REQUIRE(one.files == seen->files);
    REQUIRE(one.bytes == seen->bytes);
  }
  REQUIRE(committed(store) == std::vector<uint64_t>{60, 50, 20});
}

TEST_CASE("a commit by an owner that slept does not count") {
  AnyStore store;
  Catalog first = owned(store, 1);
  REQUIRE(save(first, store, 10).ok());
  const auto asleep = write_data(first, store, 20);
  REQUIRE(asleep.ok());
  Catalog second = owned(store, 2);
  // It wakes up behind its check: the record itself gets written.
  Commit late = *asleep;
  late.claim = first.claim();
  late.job = "job";
  REQUIRE(store.put(commit_name({20, 1}), *encode(late)).ok());
  REQUIRE(committed(store) == std::vector<uint64_t>{10});
  const auto steps = Catalog(store).steps();
  REQUIRE(steps->front().key == CommitKey{20, 1});
  REQUIRE(steps->front().status.message().find("had lost the folder to job 'job' generation 2") !=
          std::string::npos);
  // Nor after the next takeover; and collection removes it with its data.
  Catalog third = owned(store, 3);
  REQUIRE(committed(store) == std::vector<uint64_t>{10});
  REQUIRE(third.collect({}).ok());
  REQUIRE(store.list("commits/")->size() == 1);
  REQUIRE(store.list(step_folder(20))->empty());
}

TEST_CASE("nodes join the claim of their generation") {
  AnyStore store;
  Catalog node(store);
  REQUIRE(node.join({"job", 1, "n"}).code() == Code::kFailedPrecondition);
  Catalog head = owned(store, 1);
  REQUIRE(node.join({"job", 1, "n"}).ok());
  REQUIRE(node.claim() == head.claim());
  REQUIRE(node.part_path(1, 2) == head.part_path(1, 2));
  REQUIRE(node.join({"job", 2, "n"}).code() == Code::kFailedPrecondition);
}

TEST_CASE("a commit demands every part and file, and may be repeated") {
  AnyStore store;
  Catalog catalog = owned(store, 1);
  const Commit commit = *write_data(catalog, store, 20);
  const auto failure = [&](const std::string& path, const std::function<void()>& damage) {
    const auto kept = *store.get(path, 1 << 20);
    damage();
    const Status status = catalog.commit(commit);
    REQUIRE(store.put(path, kept).ok());
    REQUIRE(status.code() == Code::kDataLoss);
    REQUIRE(committed(store).empty());
    return status.message();
  };
  const std::string part = commit.parts[1].path;
  const std::string data = catalog.data_path(20, 1);
  REQUIRE(failure(part, [&] { (void)store.remove(part); }) ==
          "cannot commit step 20: part " + part + " is not there. Write the step again.");
  REQUIRE(failure(part, [&] { flip(store, part, 40); }).find("are not the") != std::string::npos);
  REQUIRE(failure(data, [&] { (void)store.remove(data); }).find("is not there") !=
          std::string::npos);
  REQUIRE(failure(data, [&] {
            (void)store.put(data, bytes_of("x"));
          }).find("has 1 bytes in place of") != std::string::npos);
  Commit wrong = commit;
  wrong.tensors.back().holders = {{0, 1}};
  REQUIRE(catalog.commit(wrong).message().find("does not tell that node") != std::string::npos);
  REQUIRE(catalog.commit(commit).ok());
  REQUIRE(catalog.commit(commit).ok());
  Commit other = commit;
  other.notes["x"] = "y";
  REQUIRE(catalog.commit(other).code() == Code::kAlreadyExists);
  REQUIRE(catalog.latest()->wall_ns == kNow);
}

TEST_CASE("the clock decides nothing") {
  AnyStore store;
  int64_t now = kNow;
  Catalog catalog(store, [&] { return now; });
  REQUIRE(catalog.take_over({"job", 1, "n"}).ok());
  REQUIRE(save(catalog, store, 10).ok());
  now -= 3600'000'000'000;
  REQUIRE(save(catalog, store, 20).ok());
  REQUIRE(catalog.latest()->step == 20);
  now = -5;
  Catalog next(store, [&] { return now; });
  REQUIRE(next.take_over({"job", 2, "n"}).ok());
  // A generation that went back is newer with an earlier step.
  REQUIRE(save(next, store, 12 * kStepsApart).ok());
  REQUIRE(save(next, store, 4 * kStepsApart).ok());
  REQUIRE(committed(store) == std::vector<uint64_t>{120, 40, 20, 10});
}

TEST_CASE("parts that disagree on a tensor are not committed") {
  CommitBuilder builder(Commit{});
  Part a{0, 1, 0, {{"w", Dtype::kFloat32, {4}}}, {}, {}};
  Part b{0, 2, 0, {{"w", Dtype::kFloat32, {5}}}, {}, {}};
  REQUIRE(builder.add({"a", 1, 1, 1}, a).ok());
  REQUIRE(builder.add({"b", 1, 1, 2}, b).message() ==
          "nodes 1 and 2 disagree on tensor w of step 0: its dtype or global shape differs.");
}

TEST_CASE("collection keeps what its rules and later steps need") {
  AnyStore store;
  Catalog catalog = owned(store, 1);
  for (uint64_t step = 10; step <= 90; step += 10) REQUIRE(save(catalog, store, step).ok());
  REQUIRE(store.put("data/s000000000010/notes.txt", bytes_of("mine")).ok());
  REQUIRE(store.put("README", bytes_of("mine")).ok());
  REQUIRE(write_data(catalog, store, 100).ok());  // being written
  KeepPolicy keep;
  keep.newest = 1;
  keep.every = 40;
  keep.pins = {30};
  const auto collected = catalog.collect(keep);
  REQUIRE(collected.ok());
  REQUIRE(committed(store) == std::vector<uint64_t>{90, 80, 40, 30});
  REQUIRE(collected->steps == std::vector<uint64_t>{70, 60, 50, 20, 10});
  REQUIRE(collected->files > 0);
  REQUIRE(collected->damaged.empty());
  for (const uint64_t step : committed(store)) {
    REQUIRE(difference(catalog, store, *catalog.load_commit(step)).empty());
  }
  // Step 30 of node 1 refers to step 20, whose other files are gone.
  REQUIRE(store.list(step_folder(20))->size() == 1);
  REQUIRE(store.list(step_folder(10))->front().path == "data/s000000000010/notes.txt");
  REQUIRE(store.list(step_folder(100))->size() == 4);
  REQUIRE(store.list("README")->size() == 1);
  // Once a later step is committed, the one that was given up is garbage, unless it is named.
  REQUIRE(save(catalog, store, 120).ok());
  keep.writing = {100};
  REQUIRE(catalog.collect(keep).ok());
  REQUIRE(store.list(step_folder(100))->size() == 4);
  keep.writing = {};
  REQUIRE(catalog.collect(keep).ok());
  REQUIRE(store.list(step_folder(100))->empty());
}

TEST_CASE("damaged records do not count, are told of, and are left") {
  AnyStore store;
  Catalog catalog = owned(store, 1);
  for (const uint64_t step : {20, 40, 60}) REQUIRE(save(catalog, store, step).ok());
  flip(store, commit_name({60, 1}), 50);
  REQUIRE(committed(store) == std::vector<uint64_t>{40, 20});
  REQUIRE(catalog.latest()->step == 40);
  REQUIRE(catalog.load_commit(60).status().code() == Code::kDataLoss);
  const auto collected = catalog.collect({});
  REQUIRE(collected->damaged == std::vector<std::string>{commit_name({60, 1})});
  REQUIRE(store.list(step_folder(60))->size() == 4);
  REQUIRE(store.list(step_folder(20))->empty());
  // A record under another step's name.
  REQUIRE(store.put(commit_name({80, 1}), *store.get(commit_name({40, 1}), 1 << 20)).ok());
  REQUIRE(catalog.latest()->step == 40);
  // Committing the step again mends it.
  REQUIRE(save(catalog, store, 60).ok());
  REQUIRE(catalog.latest()->step == 60);
  AnyStore empty;
  REQUIRE(Catalog(empty).latest().status().code() == Code::kNotFound);
}

TEST_CASE("a folder of a newer format is not touched") {
  AnyStore store;
  Catalog catalog = owned(store, 1);
  REQUIRE(save(catalog, store, 20).ok());
  REQUIRE(store.put(commit_name({40, 1}), wrap(RecordKind::kCommit, kFormatVersion + 1, {})).ok());
  const auto before = *store.list("");
  REQUIRE(catalog.collect({}).status().message().starts_with("nothing was removed: commit record"));
  REQUIRE(Catalog(store).take_over({"job", 2, "n"}, true).code() == Code::kFailedPrecondition);
  REQUIRE(catalog.latest()->step == 20);
  REQUIRE(*store.list("") == before);
  REQUIRE(store.remove(commit_name({40, 1})).ok());
  REQUIRE(store.put(owner_name(2), wrap(RecordKind::kOwner, kFormatVersion + 1, {})).ok());
  const Status newer = Catalog(store).take_over({"job", 2, "n"}, true);
  REQUIRE(newer.message().find("owner record memory/owner/c00000002 has format version 2") !=
          std::string::npos);
}

TEST_CASE("verify names each bad chunk and its tensors") {
  AnyStore store;
  Catalog catalog = owned(store, 1);
  REQUIRE(save(catalog, store, 20).ok());
  uint64_t calls = 0;
  const auto good = catalog.verify(20, [&](const VerifyProgress&) { return ++calls > 0; });
  REQUIRE(good->ok());
  REQUIRE(calls == 12);
  REQUIRE(good->done.chunks == 12);
  REQUIRE(good->done.chunks_total == 12);
  REQUIRE(good->done.bytes == 640);
  REQUIRE(good->done.parts == 2);
  const std::string data = catalog.data_path(20, 1);
  flip(store, data, 3);                      // rank 2, chunk 0: w
  flip(store, data, 310);                    // rank 3, chunk 2: rng.3
  flip(store, catalog.data_path(20, 0), 0);  // a zstd frame's mark
  const auto bad = catalog.verify(20);
  REQUIRE(bad->bad.size() == 3);
  REQUIRE(bad->bad[0].rank == 0);
  REQUIRE(bad->bad[1].tensors == std::vector<std::string>{"w"});
  REQUIRE(bad->bad[1].rank == 2);
  REQUIRE(bad->bad[2].tensors == std::vector<std::string>{"rng.3"});
  REQUIRE(bad->bad[2].status.message() ==
          "chunk 2 of rank 3 in " + data + " at 288 in memory does not match its checksum");
  REQUIRE(store.put(data, bytes_of("short")).ok());
  REQUIRE(catalog.verify(20)->bad.size() == 7);
  REQUIRE(store.remove(catalog.part_path(20, 1)).ok());
  REQUIRE(catalog.verify(20)->bad_parts.size() == 1);
  REQUIRE(catalog.verify(20, [](const VerifyProgress&) { return false; }).status().code() ==
          Code::kAborted);
  REQUIRE(catalog.verify(30).status().code() == Code::kNotFound);
}

}  // namespace
}  // namespace convoy::ckpt
