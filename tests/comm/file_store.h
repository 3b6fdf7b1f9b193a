#pragma once

#include <convoy/rendezvous/store.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace convoy::host::testing {

// A Store whose keys are files of one folder, for ranks that are processes of one test.
class FileStore final : public Store {
 public:
  explicit FileStore(std::string folder) : folder_(std::move(folder)) {}

  Status set(const std::string& key, const std::string& value) override {
    const std::string path = path_of(key), draft = path + "." + std::to_string(::getpid());
    std::ofstream(draft) << value;
    std::filesystem::rename(draft, path);
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

}  // namespace convoy::host::testing
