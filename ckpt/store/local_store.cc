// A folder of this machine as a store. Every path is walked component by component from the root's
// descriptor without following links, so nothing outside of the folder is ever touched.
#include <convoy/base/fault.h>
#include <convoy/base/fd.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <random>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using Bytes = std::vector<std::byte>;
constexpr mode_t kFileMode = 0644;
constexpr mode_t kFolderMode = 0755;
// A folder that collection empties may vanish between its making and the link: it is made again.
constexpr int kLinkTriesMax = 16;

// A failed system call: which mend helps depends on the error.
Status io_error(const std::string& what, int error) {
  const Status status = errno_status(what, error);
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return {Code::kResourceExhausted,
              status.message() + ". Free space, raise the quota or keep fewer steps."};
    case EROFS:
    case EACCES:
    case EPERM:
      return {Code::kInvalidArgument,
              status.message() + ". Give a folder that this user may read and write."};
    case ELOOP:
    case ENOTDIR:
      return {Code::kInvalidArgument,
              status.message() + ". Links are not followed inside of a checkpoint folder."};
    default:
      return status;
  }
}

// Whether a system call fails, with errno set. A test can make the one at `point` fail with EIO, in
// which case it is not made, or the process die in its place (point + ".kill").
template <class Call>
bool fails(const char* point, Call call) {
  fault::die_at(std::string(point) + ".kill");
  if (!fault::strikes(point)) return call() < 0;
  errno = EIO;
  return true;
}

Status write_all(int fd, const std::string& name, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t n = 0;
    if (fails("ckpt.local.write", [&] { return n = ::write(fd, bytes.data(), bytes.size()); })) {
      if (errno == EINTR) continue;
      return io_error("cannot write " + name, errno);
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return ok_status();
}

// Where a file lies: its folder, open, and its last component.
struct Place {
  UniqueFd folder;
  std::string name;
};

class LocalStore final : public Store {
 public:
  LocalStore(std::string folder, UniqueFd root)
      : folder_(std::move(folder)), root_(std::move(root)) {}

  std::string name() const override { return folder_; }
  Status put(const std::string& path, std::span<const std::byte> bytes) override;
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override;
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override;
  Result<Bytes> get(const std::string& path, uint64_t most) override;
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override;
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override;
  Status remove(const std::string& path) override;
  Status sync() override;

  std::string full(const std::string& path) const { return folder_ + "/" + path; }
  // An unnamed file in the root, or a hidden one whose name is put into `hidden`.
  Result<UniqueFd> open_unnamed(const std::string& path, std::string& hidden);
  // Syncs the file and gives it its name, durably. `hidden` is cleared once it is used up.
  Status publish(int fd, std::string& hidden, const std::string& path, bool replace);
  void unlink_hidden(const std::string& hidden) { ::unlinkat(root_.get(), hidden.c_str(), 0); }

 private:
  Result<Place> walk(const std::string& path, bool create);
  Result<UniqueFd> open_file(const std::string& path);
  Status link(int fd, std::string& hidden, const std::string& path, bool replace);
  Status sync_folders(const std::string& path);
  Status list_folder(UniqueFd folder, const std::string& prefix, const std::string& at,
                     std::vector<StoreEntry>& out);
  void prune(const std::string& path);

  std::string folder_;
  UniqueFd root_;
  std::mutex mutex_;
  std::set<std::string> unsynced_;  // paths removed since the last sync(); guarded by mutex_
};

std::string random_name() {
  std::random_device random;
  return ".convoy-" + std::to_string(random()) + "-" + std::to_string(random());
}

class LocalWriter final : public StoreWriter {
 public:
  LocalWriter(LocalStore& store, std::string path, UniqueFd fd, std::string hidden)
      : store_(store), path_(std::move(path)), fd_(std::move(fd)), hidden_(std::move(hidden)) {}
  LocalWriter(const LocalWriter&) = delete;
  LocalWriter& operator=(const LocalWriter&) = delete;
  ~LocalWriter() override { end(); }

  Status append(std::span<const std::byte> bytes) override {
    CONVOY_CHECK(fd_.get() >= 0, "append after the end of " + path_);
    return write_all(fd_.get(), store_.full(path_), bytes);
  }
  Status finish() override {
    CONVOY_CHECK(fd_.get() >= 0, "a second end of " + path_);
    const Status status = store_.publish(fd_.get(), hidden_, path_, true);
    end();
    return status;
  }
  void abandon() override { end(); }

 private:
  void end() {
    fd_.reset();
    if (!hidden_.empty()) store_.unlink_hidden(hidden_);
    hidden_.clear();
  }

  LocalStore& store_;
  std::string path_;
  UniqueFd fd_;
  std::string hidden_;
};

// The open folder of `path`; with `create`, folders that are missing are made, each synced into its
// parent by sync_folders() later.
Result<Place> LocalStore::walk(const std::string& path, bool create) {
  UniqueFd at(::openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return io_error("cannot open folder " + folder_, errno);
  size_t begin = 0;
  for (size_t end = path.find('/'); end != std::string::npos; end = path.find('/', begin)) {
    const std::string component = path.substr(begin, end - begin);
    if (create && ::mkdirat(at.get(), component.c_str(), kFolderMode) != 0 && errno != EEXIST) {
      return io_error("cannot make folder " + full(path.substr(0, end)), errno);
    }
    UniqueFd next(
        ::openat(at.get(), component.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next) return io_error("cannot open folder " + full(path.substr(0, end)), errno);
    at = std::move(next);
    begin = end + 1;
  }
  return Place{std::move(at), path.substr(begin)};
}

Result<UniqueFd> LocalStore::open_unnamed(const std::string& path, std::string& hidden) {
  UniqueFd fd(::openat(root_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, kFileMode));
  if (fd) return fd;
  // EISDIR and EOPNOTSUPP: a file system or kernel without O_TMPFILE. All else is a real failure.
  if (errno != EISDIR && errno != EOPNOTSUPP && errno != EINVAL) {
    return io_error("cannot write " + full(path), errno);
  }
  hidden = random_name();
  fd.reset(::openat(root_.get(), hidden.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kFileMode));
  if (!fd) {
    hidden.clear();
    return io_error("cannot write " + full(path), errno);
  }
  return fd;
}

// Gives the file its name. linkat can't replace and rename can't refuse to, so a file that replaces
// gets a hidden name first; that is only needed where there is something to replace.
Status LocalStore::link(int fd, std::string& hidden, const std::string& path, bool replace) {
  CONVOY_ASSIGN_OR_RETURN(const Place place, walk(path, true));
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  const auto take_name = [&] {
    const int to = place.folder.get();
    return hidden.empty()
               ? ::linkat(AT_FDCWD, self.c_str(), to, place.name.c_str(), AT_SYMLINK_FOLLOW)
               : ::linkat(root_.get(), hidden.c_str(), to, place.name.c_str(), 0);
  };
  if (!fails("ckpt.local.link", take_name)) {
    if (!hidden.empty()) unlink_hidden(std::exchange(hidden, {}));
    return ok_status();
  }
  if (errno != EEXIST) return io_error("cannot name " + full(path), errno);
  if (!replace) return {Code::kAlreadyExists, full(path) + " exists."};
  if (hidden.empty()) {
    const std::string name = random_name();
    if (::linkat(AT_FDCWD, self.c_str(), root_.get(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return io_error("cannot name " + full(path), errno);
    }
    hidden = name;
  }
  if (fails("ckpt.local.rename", [&] {
        return ::renameat(root_.get(), hidden.c_str(), place.folder.get(), place.name.c_str());
      })) {
    return io_error("cannot put " + full(path) + " in its place", errno);
  }
  hidden.clear();
  return ok_status();
}

Status LocalStore::publish(int fd, std::string& hidden, const std::string& path, bool replace) {
  if (fails("ckpt.local.fsync", [&] { return ::fsync(fd); })) {
    return io_error("cannot sync " + full(path), errno);
  }
  Status status;
  for (int i = 0; i < kLinkTriesMax; ++i) {
    status = link(fd, hidden, path, replace);
    if (status.code() != Code::kNotFound) break;
  }
  if (!status.ok()) return status;
  return sync_folders(path);
}

// Syncs the folder of `path` and those above it: any of them may be new.
Status LocalStore::sync_folders(const std::string& path) {
  for (std::string at = path;;) {
    const Result<Place> place = walk(at, false);
    // Gone again: collection has emptied it, and its name's end is the parent's business.
    if (!place.ok() && place.status().code() != Code::kNotFound) return place.status();
    if (place.ok() &&
        fails("ckpt.local.fsync_folder", [&] { return ::fsync(place->folder.get()); })) {
      return io_error("cannot sync the folder of " + full(at), errno);
    }
    const size_t slash = at.rfind('/');
    if (slash == std::string::npos) return ok_status();
    at.resize(slash);
  }
}

Status LocalStore::put(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<StoreWriter> writer, open_writer(path));
  CONVOY_RETURN_IF_ERROR(writer->append(bytes));
  return writer->finish();
}

Status LocalStore::create_new(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  std::string hidden;
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd fd, open_unnamed(path, hidden));
  Status status = write_all(fd.get(), full(path), bytes);
  if (status.ok()) status = publish(fd.get(), hidden, path, false);
  if (!hidden.empty()) unlink_hidden(hidden);
  return status;
}

Result<std::unique_ptr<StoreWriter>> LocalStore::open_writer(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  std::string hidden;
  CONVOY_ASSIGN_OR_RETURN(UniqueFd fd, open_unnamed(path, hidden));
  return std::unique_ptr<StoreWriter>(
      std::make_unique<LocalWriter>(*this, path, std::move(fd), std::move(hidden)));
}

Result<UniqueFd> LocalStore::open_file(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  CONVOY_ASSIGN_OR_RETURN(const Place place, walk(path, false));
  // O_NONBLOCK: a named pipe must not hold us up.
  UniqueFd fd(::openat(place.folder.get(), place.name.c_str(),
                       O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return io_error("cannot open " + full(path), errno);
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return io_error("cannot stat " + full(path), errno);
  if (!S_ISREG(info.st_mode)) {
    return Status(Code::kInvalidArgument, full(path) + " is no regular file.");
  }
  return fd;
}

Status read_all(int fd, const std::string& name, uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    ssize_t n = 0;
    if (fails("ckpt.local.read", [&] {
          return n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        })) {
      if (errno == EINTR) continue;
      return io_error("cannot read " + name, errno);
    }
    if (n == 0) {
      return {Code::kDataLoss, name + " is truncated: it ends at byte " + std::to_string(offset) +
                                   ", but " + std::to_string(out.size()) + " more were asked for."};
    }
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return ok_status();
}

Result<Bytes> LocalStore::get(const std::string& path, uint64_t most) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd fd, open_file(path));
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return io_error("cannot stat " + full(path), errno);
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > most) {
    return Status(Code::kDataLoss, full(path) + " has " + std::to_string(size) +
                                       " bytes, more than the " + std::to_string(most) +
                                       " that it may have.");
  }
  Bytes bytes(size);
  CONVOY_RETURN_IF_ERROR(read_all(fd.get(), full(path), 0, bytes));
  return bytes;
}

Status LocalStore::read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd fd, open_file(path));
  return read_all(fd.get(), full(path), offset, out);
}

// Adds the files below `at` ("" or "a/b/"), whose open folder is given.
Status LocalStore::list_folder(UniqueFd folder, const std::string& prefix, const std::string& at,
                               std::vector<StoreEntry>& out) {
  const int fd = folder.get();
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(fd), &::closedir);
  if (dir == nullptr) return io_error("cannot list " + full(at), errno);
  (void)folder.release();  // closedir() closes it
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string path = at + entry->d_name;
    struct stat info = {};
    // Only what can lead to the prefix; a file may also vanish while we look.
    const bool wanted = path.starts_with(prefix) || prefix.starts_with(path + "/");
    if (entry->d_name[0] == '.' || !wanted || !check_path(path).ok() ||
        ::fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
      errno = 0;
      continue;
    }
    if (S_ISREG(info.st_mode) && path.starts_with(prefix)) {
      out.push_back({path, static_cast<uint64_t>(info.st_size)});
    } else if (S_ISDIR(info.st_mode)) {
      UniqueFd next(::openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (next) {
        CONVOY_RETURN_IF_ERROR(list_folder(std::move(next), prefix, path + "/", out));
      } else if (errno != ENOENT) {
        return io_error("cannot list " + full(path), errno);
      }
    }
    errno = 0;
  }
  return errno == 0 ? ok_status() : io_error("cannot list " + full(at), errno);
}

Result<std::vector<StoreEntry>> LocalStore::list(const std::string& prefix) {
  UniqueFd root(::openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return io_error("cannot list " + folder_, errno);
  std::vector<StoreEntry> entries;
  CONVOY_RETURN_IF_ERROR(list_folder(std::move(root), prefix, "", entries));
  std::ranges::sort(entries, {}, &StoreEntry::path);
  return entries;
}

// Removes the folders above `path` that are empty now.
void LocalStore::prune(const std::string& path) {
  for (size_t slash = path.rfind('/'); slash != std::string::npos;
       slash = path.rfind('/', slash - 1)) {
    const Result<Place> place = walk(path.substr(0, slash), false);
    if (!place.ok() || ::unlinkat(place->folder.get(), place->name.c_str(), AT_REMOVEDIR) != 0) {
      return;
    }
    if (slash == 0) return;
  }
}

Status LocalStore::remove(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  const Result<Place> place = walk(path, false);
  if (place.status().code() == Code::kNotFound) return ok_status();
  if (!place.ok()) return place.status();
  if (fails("ckpt.local.unlink",
            [&] { return ::unlinkat(place->folder.get(), place->name.c_str(), 0); })) {
    return errno == ENOENT ? ok_status() : io_error("cannot remove " + full(path), errno);
  }
  {
    const std::lock_guard lock(mutex_);
    unsynced_.insert(path);
  }
  prune(path);
  return ok_status();
}

Status LocalStore::sync() {
  std::set<std::string> paths;
  {
    const std::lock_guard lock(mutex_);
    paths.swap(unsynced_);
  }
  std::string last = "/";  // no folder's name
  for (const std::string& path : paths) {
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    if (folder == last) continue;
    if (const Status status = sync_folders(path); !status.ok()) {
      const std::lock_guard lock(mutex_);
      unsynced_.merge(paths);  // for the next try
      return status;
    }
    last = folder;
  }
  return ok_status();
}

}  // namespace

Result<std::unique_ptr<Store>> open_local_store(const std::string& folder) {
  UniqueFd root(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) {
    const int error = errno;
    if (error == ENOTDIR) {
      return Status(Code::kInvalidArgument, "checkpoint folder " + folder + " is no folder.");
    }
    const Status status = io_error("cannot open checkpoint folder " + folder, error);
    if (error != ENOENT) return status;
    return Status(status.code(), status.message() + ". Make it first.");
  }
  return std::unique_ptr<Store>(std::make_unique<LocalStore>(folder, std::move(root)));
}

}  // namespace convoy::ckpt
