#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <functional>
#include <string>
#include <string_view>

namespace convoy::ckpt {

// The folder in which an export works: TARGET.partial, locked. It takes the target's name in
// finish(); without that it is removed.
class WorkFolder {
 public:
  // `is_ours`: names of files that an export may have left there. kInvalidArgument if the target is
  // there and not empty, or the work folder holds something else; kUnavailable if another export
  // uses it.
  static Result<WorkFolder> create(const std::string& target,
                                   std::function<bool(const std::string&)> is_ours);
  WorkFolder(WorkFolder&&) = default;
  WorkFolder& operator=(WorkFolder&&) = delete;
  ~WorkFolder();

  const std::string& path() const { return path_; }
  Status finish();

 private:
  WorkFolder(std::string target, std::function<bool(const std::string&)> is_ours);
  Status check_target() const;
  Result<bool> lock();
  Status clear();

  std::string target_;
  std::string path_;
  std::function<bool(const std::string&)> is_ours_;
  UniqueFd lock_;
};

}  // namespace convoy::ckpt
