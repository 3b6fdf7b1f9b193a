// Stores: one suite of promises that every store keeps, among them under several threads; and what
// only a local folder can do wrong: links, paths that leave it, system calls that fail (fault
// points), a full and a read-only file system (a tmpfs of its own, where namespaces are allowed).
// What a power failure leaves of a local folder is not checked here: no test can drop its cache.
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/faulty_store.h"
#include "tests/temp_folder.h"
#include <convoy/base/fault.h>
#include <convoy/ckpt/store.h>

#include <catch2/catch.hpp>

#include <atomic>
#include <functional>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kMost = 1 << 20;

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

void suite(const std::function<std::unique_ptr<Store>()>& make) {
  for (const auto test :
       {&small_files, &ranges, &writers, &lists_and_removal, &refused_paths, &threads}) {
    const std::unique_ptr<Store> store = make();
    test(*store);
  }
}

TEST_CASE("the memory store keeps a store's promises") {
  suite([] { return std::make_unique<MemoryStore>(); });
}

TEST_CASE("the faulty store without faults keeps a store's promises") {
  suite([] { return std::make_unique<FaultyStore>(); });
}

TEST_CASE("the local store keeps a store's promises") {
  std::vector<std::unique_ptr<TempFolder>> folders;
  suite([&] {
    folders.push_back(std::make_unique<TempFolder>());
    return open_local_store(folders.back()->path()).value();
  });
}

TEST_CASE("a local store follows no link out of its folder") {
  TempFolder outside;
  TempFolder folder;
  const auto store = open_local_store(folder.path()).value();
  REQUIRE(::symlink(outside.path().c_str(), (folder / "link").c_str()) == 0);
  REQUIRE(store->put("link/x", bytes_of("x")).code() == Code::kInvalidArgument);
  REQUIRE(outside.entries() == 0);
  const auto other = open_local_store(outside.path()).value();
  REQUIRE(other->put("secret", bytes_of("s")).ok());
  REQUIRE(::symlink((outside / "secret").c_str(), (folder / "file").c_str()) == 0);
  REQUIRE(store->get("file", kMost).status().code() == Code::kInvalidArgument);
  REQUIRE(store->get("link/secret", kMost).status().code() == Code::kInvalidArgument);
  REQUIRE(paths(*store, "").empty());
  REQUIRE(store->put("file", bytes_of("mine")).ok());  // takes the link's place
  REQUIRE(content(*other, "secret") == "s");
  REQUIRE(store->remove("link").ok());  // the link, not what it points to
  REQUIRE(content(*other, "secret") == "s");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  REQUIRE(store->get("pipe", kMost).status().code() == Code::kInvalidArgument);
}

TEST_CASE("a local store says what is wrong with its folder") {
  TempFolder folder;
  REQUIRE(open_local_store(folder / "none").status().message() ==
          "cannot open checkpoint folder " + (folder / "none") +
              ": No such file or directory. Make it first.");
  REQUIRE(open_local_store(folder.path())->get()->put("file", {}).ok());
  REQUIRE(open_local_store(folder / "file").status().message() ==
          "checkpoint folder " + (folder / "file") + " is no folder.");
  // Hidden files are somebody else's.
  const auto store = open_local_store(folder.path()).value();
  REQUIRE(::mkdir((folder / ".snapshot").c_str(), 0700) == 0);
  REQUIRE(paths(*store, "") == std::vector<std::string>{"file"});
}

TEST_CASE("a system call that fails leaves the old file or the new one, and no third") {
  TempFolder folder;
  const auto store = open_local_store(folder.path()).value();
  for (const char* point : {"write", "fsync", "link", "rename", "fsync_folder"}) {
    CAPTURE(point);
    REQUIRE(store->put("d/f", bytes_of("old")).ok());
    fault::arm("ckpt.local." + std::string(point));
    const Status status = store->put("d/f", bytes_of("new"));
    fault::arm("");
    REQUIRE(status.code() == Code::kDataLoss);  // EIO
    REQUIRE(status.message().find(folder.path()) != std::string::npos);
    const std::string now = content(*store, "d/f");
    REQUIRE(now == (std::string(point) == "fsync_folder" ? "new" : "old"));
    REQUIRE(folder.entries() == 1);  // no hidden file is left
  }
  fault::arm("ckpt.local.read");
  REQUIRE(store->get("d/f", kMost).status().code() == Code::kDataLoss);
  fault::arm("ckpt.local.unlink");
  REQUIRE_FALSE(store->remove("d/f").ok());
  fault::arm("");
}

// In a child with a mount namespace of its own: 0 passed, 77 no namespaces here.
int small_file_system(const std::string& folder) {
  const std::string user = "0 " + std::to_string(::getuid()) + " 1";
  const std::string group = "0 " + std::to_string(::getgid()) + " 1";
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 77;
  for (const auto& [file, text] : {std::pair<std::string, std::string>{"setgroups", "deny"},
                                   {"uid_map", user},
                                   {"gid_map", group}}) {
    if (!(std::ofstream("/proc/self/" + file) << text << std::flush)) return 77;
  }
  if (::mount("none", folder.c_str(), "tmpfs", 0, "size=64k") != 0) return 77;
  const auto store = open_local_store(folder).value();
  if (!store->put("kept", bytes_of("kept")).ok()) return 1;
  const Status full = store->put("big", std::vector<std::byte>(1 << 20));
  if (full.code() != Code::kResourceExhausted) return 2;
  if (full.message().find("Free space, raise the quota or keep fewer steps") == std::string::npos) {
    return 3;
  }
  if (content(*store, "kept") != "kept" || content(*store, "big") != "not found") return 4;
  if (::mount("none", folder.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) != 0) return 77;
  const Status read_only = store->put("x", {});
  if (read_only.code() != Code::kInvalidArgument) return 5;
  if (read_only.message().find("may read and write") == std::string::npos) return 6;
  return content(*store, "kept") == "kept" ? 0 : 7;
}

TEST_CASE("a full and a read-only file system give clear errors") {
  TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(small_file_system(folder.path()));
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) {
    WARN("not checked: no mount namespaces here");
  } else {
    REQUIRE(WEXITSTATUS(status) == 0);
  }
}

}  // namespace
}  // namespace convoy::ckpt
