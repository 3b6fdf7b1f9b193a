#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::python {

// A store whose waits end when this process is called to another generation: who should have
// written the key may be dead. Thread safe as far as the inner store is.
class LedStore : public c10d::Store {
 public:
  using Bytes = std::vector<uint8_t>;
  // `called_off`: whether to wait no longer; a load.
  LedStore(c10::intrusive_ptr<c10d::Store> inner, std::function<bool()> called_off)
      : Store(inner->getTimeout()), inner_(std::move(inner)), called_off_(std::move(called_off)) {}

  c10::intrusive_ptr<c10d::Store> clone() override;
  void set(const std::string& key, const Bytes& value) override { inner_->set(key, value); }
  Bytes compareSet(const std::string& key, const Bytes& current, const Bytes& value) override {
    return inner_->compareSet(key, current, value);
  }
  // Waits for the key. DistBackendError "aborted: …" when called off.
  Bytes get(const std::string& key) override;
  int64_t add(const std::string& key, int64_t value) override { return inner_->add(key, value); }
  bool deleteKey(const std::string& key) override { return inner_->deleteKey(key); }
  bool check(const std::vector<std::string>& keys) override { return inner_->check(keys); }
  int64_t getNumKeys() override { return inner_->getNumKeys(); }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  // DistBackendError: "aborted: …" when called off; DistStoreError after `timeout`.
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override;

 private:
  const c10::intrusive_ptr<c10d::Store> inner_;
  const std::function<bool()> called_off_;
};

}  // namespace convoy::python
