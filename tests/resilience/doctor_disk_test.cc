// Folders that are broken: read-only, too small, gone, and one whose server never answers. As root,
// each is a mount of its own in a mount namespace of its own, so nobody else sees it; without root
// these cases are skipped. Not checked: a disk that is slow, and one with errors.
#include "tests/resilience/doctor_run.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

using namespace convoy;
using namespace convoy::resilience;

namespace {

constexpr Nanos kTime = std::chrono::milliseconds(100);

// Mounts a file system for this process alone. False: no right to.
bool mount_privately(const char* type, const std::string& at, unsigned long flags,
                     const std::string& data) {
  return ::unshare(CLONE_NEWNS) == 0 &&
         ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("doctor-test", at.c_str(), type, flags, data.c_str()) == 0;
}

// check_disk() on such a mount.
Results check_mount(const std::string& folder, unsigned long flags, const std::string& data) {
  return in_child([&]() -> Results {
    if (!mount_privately("tmpfs", folder, flags, data)) return {skipped("mount", "no right")};
    return check_disk({}, folder, kTime);
  });
}

bool has_no_right(const Results& results) {
  if (result_of(results, "mount").verdict != Verdict::kSkipped) return false;
  WARN("skipped: mounting needs root");
  return true;
}

}  // namespace

TEST_CASE("a healthy folder is measured, and left empty") {
  const TempFolder folder;
  DoctorOptions options;
  options.space_min = 0;
  const Results results = check_disk(options, folder.path(), kTime);
  CHECK(result_of(results, "disk.space").verdict == Verdict::kOk);
  CHECK(result_of(results, "disk.fsync").value > 0);
  CHECK(result_of(results, "disk.write").value > 0);
  CHECK(result_of(results, "disk.write").subject == folder.path());
  CHECK(folder.entries() == 0);
}

TEST_CASE("a read-only folder fails, and the advice is about that") {
  const TempFolder folder;
  const Results results = check_mount(folder.path(), MS_RDONLY, "size=2g");
  if (has_no_right(results)) return;
  const CheckResult write = result_of(results, "disk.write");
  CHECK(write.verdict == Verdict::kFail);
  CHECK(write.found == std::strerror(EROFS));
  CHECK(write.advice.find("Mount it writable") != std::string::npos);
}

TEST_CASE("a folder that is too small fails") {
  const TempFolder folder;
  const Results results = check_mount(folder.path(), 0, "size=8m");
  if (has_no_right(results)) return;
  CHECK(result_of(results, "disk.space").verdict == Verdict::kFail);
  CHECK(result_of(results, "disk.space").value <= 8 << 20);
  CHECK(result_of(results, "disk.fsync").verdict == Verdict::kOk);
  CHECK(result_of(results, "disk.write").verdict == Verdict::kSkipped);  // nothing is filled up
}

TEST_CASE("a full folder fails with what is used up") {
  const TempFolder folder;
  const Results results = in_child([&]() -> Results {
    if (!mount_privately("tmpfs", folder.path(), 0, "size=64k")) {
      return {skipped("mount", "no right")};
    }
    const std::string bytes(64 << 10, 'x');
    const UniqueFd fd(::open((folder / "all").c_str(), O_CREAT | O_WRONLY, 0600));
    if (::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      return {};
    }
    return check_disk({}, folder.path(), kTime);
  });
  if (has_no_right(results)) return;
  const CheckResult sync = result_of(results, "disk.fsync");
  CHECK(sync.verdict == Verdict::kFail);
  CHECK(sync.found == std::strerror(ENOSPC));
}

TEST_CASE("a folder that is not there fails") {
  const TempFolder folder;
  const Results results = check_disk({}, folder / "none", kTime);
  CHECK(result_of(results, "disk.space").verdict == Verdict::kFail);
  CHECK(result_of(results, "disk.write").found == std::strerror(ENOENT));
}

TEST_CASE("a file system whose server never answers is given up and named; all else is checked") {
  const TempFolder folder;
  const Results results = in_child([&]() -> Results {
    const int server = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);  // and nobody reads it
    const std::string data =
        "fd=" + std::to_string(server) + ",rootmode=40000,user_id=0,group_id=0";
    if (server < 0 || !mount_privately("fuse", folder.path(), 0, data)) {
      return {skipped("mount", "no right")};
    }
    DoctorOptions options;
    options.folders = {folder.path()};
    const Result<DoctorReport> report = run_doctor(options);
    return report.ok() ? report->results : Results{};
  });
  if (has_no_right(results)) return;
  const CheckResult disk = result_of(results, "disk");
  CHECK(disk.verdict == Verdict::kFail);
  CHECK(disk.subject == folder.path());
  CHECK(disk.found.find("timed out") == 0);
  CHECK(result_of(results, "kernel.pidfd").verdict == Verdict::kOk);
}
