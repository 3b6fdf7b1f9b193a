// Stores: the suite of promises that every store keeps (store_suite.h) on each of them; and what
// only a local folder can do wrong: links, paths that leave it, system calls that fail (fault
// points), a full and a read-only file system (a tmpfs of its own, where namespaces are allowed).
// What a power failure leaves of a local folder is not checked here: no test can drop its cache.
#include "tests/ckpt/bytes.h"
#include "tests/ckpt/faulty_store.h"
#include "tests/ckpt/store_suite.h"
#include "tests/temp_folder.h"
#include <convoy/base/fault.h>
#include <convoy/ckpt/store.h>

#include <catch2/catch.hpp>

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kMost = 1 << 20;

TEST_CASE("the memory store keeps a store's promises") {
  check_store([] { return std::make_unique<MemoryStore>(); });
}

TEST_CASE("the faulty store without faults keeps a store's promises") {
  check_store([] { return std::make_unique<FaultyStore>(); });
}

TEST_CASE("the local store keeps a store's promises") {
  std::vector<std::unique_ptr<TempFolder>> folders;
  check_store([&] {
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
