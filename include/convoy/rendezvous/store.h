#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

namespace convoy {

// The small key-value store through which the ranks of a job find each other. Implementations: an
// in-process map (tests), c10d's stores (src/comm/c10d). Values are bytes. Thread-safe.
class Store {
 public:
  virtual ~Store() = default;
  virtual Status set(const std::string& key, const std::string& value) = 0;
  // Blocks until the key exists or the deadline passes (kDeadlineExceeded names the key).
  virtual Result<std::string> get(const std::string& key, Deadline deadline) = 0;
};

// A Store in this process's memory, for ranks that are threads of one test.
class LocalStore final : public Store {
 public:
  Status set(const std::string& key, const std::string& value) override;
  Result<std::string> get(const std::string& key, Deadline deadline) override;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string> values_;
};

}  // namespace convoy
