// Decides how a file comes into being atomically: written without a name where the file system can,
// else under a hidden one, and renamed over the target after fsync.
#include <convoy/base/atomic_file.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <random>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy {
namespace {

constexpr mode_t kMode = 0644;
constexpr int kNameTriesMax = 16;

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// A neighbour of `path` that nobody else uses: same folder, hidden, with random letters.
std::string hidden_neighbour(const std::string& path) {
  const size_t slash = path.rfind('/');
  const size_t name = slash == std::string::npos ? 0 : slash + 1;
  std::random_device random;
  return path.substr(0, name) + "." + path.substr(name) + ".part-" + std::to_string(random());
}

Status write_all(int fd, const std::string& path, uint64_t offset,
                 std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_status("cannot write " + path, errno);
    }
    bytes = bytes.subspan(n);
    offset += n;
  }
  return ok_status();
}

Status sync_folder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_status("cannot sync folder " + folder, errno);
  return ok_status();
}

}  // namespace

AtomicFile::AtomicFile(std::string path, std::string folder, UniqueFd fd, std::string temporary)
    : path_(std::move(path)),
      folder_(std::move(folder)),
      fd_(std::move(fd)),
      temporary_(std::move(temporary)) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      folder_(std::move(other.folder_)),
      fd_(std::move(other.fd_)),
      temporary_(std::exchange(other.temporary_, {})),
      size_(other.size_) {}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Result<AtomicFile> AtomicFile::create(std::string path) {
  std::string folder = folder_of(path);
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return Status(Code::kInvalidArgument, "cannot write " + path + ": it is a folder.");
  }
  UniqueFd nameless(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  if (nameless) return AtomicFile(std::move(path), std::move(folder), std::move(nameless), "");
  // EISDIR and EOPNOTSUPP: a file system or kernel without O_TMPFILE. All else is a real failure.
  if (errno != EISDIR && errno != EOPNOTSUPP && errno != EINVAL) {
    return errno_status("cannot write into folder " + folder, errno);
  }
  std::string hidden = hidden_neighbour(path);
  UniqueFd named(::open(hidden.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kMode));
  if (!named) return errno_status("cannot write into folder " + folder, errno);
  return AtomicFile(std::move(path), std::move(folder), std::move(named), std::move(hidden));
}

Status AtomicFile::append(std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(write_all(fd_.get(), path_, size_, bytes));
  size_ += bytes.size();
  return ok_status();
}

Status AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(write_all(fd_.get(), path_, offset, bytes));
  size_ = std::max<uint64_t>(size_, offset + bytes.size());
  return ok_status();
}

// Gives a nameless file a hidden name: linkat cannot replace, rename can.
Status AtomicFile::name_it() {
  const std::string self = "/proc/self/fd/" + std::to_string(fd_.get());
  for (int i = 0; temporary_.empty() && i < kNameTriesMax; ++i) {
    std::string hidden = hidden_neighbour(path_);
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, hidden.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      temporary_ = std::move(hidden);
    } else if (errno != EEXIST) {
      break;
    }
  }
  return temporary_.empty() ? errno_status("cannot name " + path_, errno) : ok_status();
}

Status AtomicFile::commit() {
  if (::fsync(fd_.get()) != 0) return errno_status("cannot sync " + path_, errno);
  CONVOY_RETURN_IF_ERROR(name_it());
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return errno_status("cannot put " + path_ + " in its place", errno);
  }
  temporary_.clear();
  return sync_folder(folder_);
}

Status write_file(const std::string& path, std::string_view text) {
  CONVOY_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CONVOY_RETURN_IF_ERROR(file.append(std::as_bytes(std::span(text))));
  return file.commit();
}

}  // namespace convoy
