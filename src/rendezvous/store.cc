// The in-process store of tests.
#include <convoy/rendezvous/store.h>

namespace convoy {

Status LocalStore::set(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = value;
  changed_.notify_all();
  return ok_status();
}

Result<std::string> LocalStore::get(const std::string& key, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto present = [&] { return values_.count(key) != 0; };
  if (deadline.at() == TimePoint::max()) {
    changed_.wait(lock, present);
  } else if (!changed_.wait_until(lock, deadline.at(), present)) {
    return Status(Code::kDeadlineExceeded, "nobody has set the key '" + key + "' in time");
  }
  return values_[key];
}

}  // namespace convoy
