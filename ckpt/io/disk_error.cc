// Words for what disks answer.
#include "ckpt/io/disk_core.h"
#include <convoy/base/units.h>

#include <cerrno>
#include <cstring>

namespace convoy::ckpt {
namespace {

const char* advice(int error) {
  switch (error) {
    case ENOSPC:
      return "; the file system is full: remove old checkpoints or keep fewer, then save again";
    case EDQUOT:
      return "; the user's quota is used up: remove old checkpoints or ask for more";
    case EIO:
      return "; the device failed: see `dmesg`, and save to another one";
    case EROFS:
      return "; the file system is read-only (after an error, perhaps: see `dmesg`)";
    case EFBIG:
      return "; the file is larger than the file system or `ulimit -f` allows";
    case EACCES:
    case EPERM:
      return "; check owner and mode of the folder";
    case ENOENT:
      return "; does its folder exist?";
    default:
      return "";
  }
}

}  // namespace

const char* verb(IoOp op) {
  switch (op) {
    case IoOp::kOpen:
      return "open";
    case IoOp::kRead:
      return "read";
    case IoOp::kWrite:
      return "write";
    case IoOp::kAllocate:
      return "reserve room for";
    case IoOp::kTruncate:
      return "set the size of";
    case IoOp::kSync:
      return "sync";
  }
  return "use";
}

Status disk_error(const IoRequest& r, const std::string& path, int error) {
  std::string what = std::string("cannot ") + verb(r.op) + " " + path;
  if (r.op == IoOp::kRead || r.op == IoOp::kWrite) {
    what += " at offset " + std::to_string(r.offset) + " (" + format_bytes(r.bytes) + ")";
  } else if (r.op == IoOp::kAllocate || r.op == IoOp::kTruncate) {
    what += " (" + format_bytes(r.offset) + ")";
  }
  const Status status = errno_status(what, error);
  if (error == EOPNOTSUPP || error == ENOSYS) return {Code::kUnavailable, status.message()};
  return {status.code(), status.message() + advice(error)};
}

}  // namespace convoy::ckpt
