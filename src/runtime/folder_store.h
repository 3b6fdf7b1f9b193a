#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <optional>
#include <string>

namespace convoy::runtime {

// A store whose keys are files of one folder, for ranks of one machine. A file appears at once and
// whole, whenever its writer is halted or killed: c10d's FileStore keeps all ranks waiting for a
// lock that a halted one holds, and for ever behind a record of which a killed one wrote a part.
// Blocks in get() and wait() until the timeout; throws c10::DistStoreError. A key's name must have
// fewer than 240 bytes. Of any threads.
class FolderStore final : public c10d::Store {
 public:
  explicit FolderStore(std::string folder);  // which is made if it is not there

  c10::intrusive_ptr<c10d::Store> clone() override;
  void set(const std::string& key, const std::vector<uint8_t>& value) override;
  std::vector<uint8_t> compareSet(const std::string& key, const std::vector<uint8_t>& expected,
                                  const std::vector<uint8_t>& desired) override;
  std::vector<uint8_t> get(const std::string& key) override;
  int64_t add(const std::string& key, int64_t value) override;
  bool deleteKey(const std::string& key) override;
  bool check(const std::vector<std::string>& keys) override;
  int64_t getNumKeys() override;
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override;

 private:
  using Value = std::optional<std::vector<uint8_t>>;
  std::string path_of(const std::string& key) const;
  Value read(const std::string& key) const;
  // Of one process at a time, for each key.
  std::vector<uint8_t> change(const std::string& key,
                              const std::function<std::vector<uint8_t>(const Value&)>& next);

  std::string folder_;
};

}  // namespace convoy::runtime
