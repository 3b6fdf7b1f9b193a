#pragma once

#include <convoy/rendezvous/store.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdlib.h>
#include <string>
#include <thread>

namespace convoy::host::testing {

// A Store whose keys are files of one folder, for ranks that are processes of one test.
class FileStore final : public Store {
 public:
  explicit FileStore(std::string folder) : folder_(std::move(folder)) {}

  Status set(const std::string& key, const std::string& value) override {
    const std::string path = path_of(key);
    std::ofstream(path + ".part") << value;
    std::filesystem::rename(path + ".part", path);
    return ok_status();
  }

  Result<std::string> get(const std::string& key, Deadline deadline) override {
    do {
      if (std::ifstream file(path_of(key)); file) {
        std::ostringstream text;
        text << file.rdbuf();
        return text.str();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    } while (!deadline.passed());
    return Status(Code::kDeadlineExceeded, "nobody has set the key '" + key + "' in time");
  }

 private:
  std::string path_of(std::string key) const {
    std::replace(key.begin(), key.end(), '/', '_');
    return folder_ + "/" + key;
  }
  std::string folder_;
};

// A folder that is gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path_((std::filesystem::temp_directory_path() / "convoy-test-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace convoy::host::testing
