// Everything is written into a folder beside the target, which takes its name when all of it is on
// disk.
#include "ckpt/formats/work_folder.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace convoy::ckpt {
namespace {

namespace fs = std::filesystem;
constexpr int kLockTriesMax = 16;  // exports that end while one waits for its folder

Status sync_folder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_status("cannot sync folder " + folder, errno);
  return ok_status();
}

// "out" and "out/" are the same; its parent is ".".
std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

WorkFolder::WorkFolder(std::string target, std::function<bool(const std::string&)> is_ours)
    : target_(without_slashes(std::move(target))),
      path_(target_ + ".partial"),
      is_ours_(std::move(is_ours)) {}

WorkFolder::~WorkFolder() {
  if (!lock_) return;
  (void)clear().ok();
  ::rmdir(path_.c_str());
}

Result<WorkFolder> WorkFolder::create(const std::string& target,
                                      std::function<bool(const std::string&)> is_ours) {
  WorkFolder work(target, std::move(is_ours));
  CONVOY_RETURN_IF_ERROR(work.check_target());
  for (int i = 0; i < kLockTriesMax; ++i) {
    CONVOY_ASSIGN_OR_RETURN(const bool locked, work.lock());
    if (!locked) continue;
    CONVOY_RETURN_IF_ERROR(work.clear());
    return work;
  }
  return Status(Code::kUnavailable, work.path_ + " is used by other exports all the time.");
}

Status WorkFolder::finish() {
  CONVOY_RETURN_IF_ERROR(sync_folder(path_));
  if (::rename(path_.c_str(), target_.c_str()) != 0) {
    return errno_status("cannot give " + path_ + " the name " + target_, errno);
  }
  lock_.reset();
  return sync_folder(parent_of(target_));
}

Status WorkFolder::check_target() const {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target_, error);
  if (!fs::exists(status)) return ok_status();
  if (fs::is_directory(status) && fs::is_empty(target_, error) && !error) return ok_status();
  return {Code::kInvalidArgument,
          target_ + " is there already; give a folder that is new or empty."};
}

// False if another export has just finished with the folder.
Result<bool> WorkFolder::lock() {
  if (::mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_status("cannot make folder " + path_, errno);
  }
  UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd && errno == ENOENT) return false;
  if (!fd) return errno_status("cannot open folder " + path_, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_status("cannot lock folder " + path_, errno);
    return Status(Code::kUnavailable, "another export is writing " + target_ +
                                          "; wait for it, or give another "
                                          "folder.");
  }
  struct stat mine = {};
  struct stat named = {};
  const bool same = ::fstat(fd.get(), &mine) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                    mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
  if (same) lock_ = std::move(fd);
  return same;
}

// Removes what a killed export has left.
Status WorkFolder::clear() {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator it(path_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (is_ours_(name)) {
      files.push_back(it->path());
    } else {
      lock_.reset();
      return {Code::kInvalidArgument, path_ + " holds " + name +
                                          ", which no export has written; remove it, or give "
                                          "another folder."};
    }
  }
  for (const fs::path& file : files) fs::remove(file, error);
  if (!error) return ok_status();
  return {Code::kInternal, "cannot clear folder " + path_ + ": " + error.message() + "."};
}

}  // namespace convoy::ckpt
