#pragma once

#include <convoy/ckpt/store.h>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace convoy::ckpt {

// An empty store for a test: in memory, or, when CONVOY_TEST_S3_DIRECT is set (s3_server.py), a new
// folder in that server's bucket. It says that its name is "memory" in both cases.
class AnyStore final : public Store {
 public:
  AnyStore() : inner_(make()) {}
  std::string name() const override { return "memory"; }
  Status put(const std::string& path, std::span<const std::byte> bytes) override {
    return inner_->put(path, bytes);
  }
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override {
    return inner_->create_new(path, bytes);
  }
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override {
    return inner_->open_writer(path);
  }
  Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) override {
    return inner_->get(path, most);
  }
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override {
    return inner_->read_at(path, offset, out);
  }
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override {
    return inner_->list(prefix);
  }
  Status remove(const std::string& path) override { return inner_->remove(path); }
  Status sync() override { return inner_->sync(); }
  Result<uint64_t> drop_unfinished(
      const std::function<bool(const std::string& path)>& which) override {
    return inner_->drop_unfinished(which);
  }

 private:
  static std::unique_ptr<Store> make() {
    const char* const server = std::getenv("CONVOY_TEST_S3_DIRECT");
    if (server == nullptr) return std::make_unique<MemoryStore>();
    static int count = 0;
    auto store = open_store("s3://convoy/any-" + std::to_string(count++) +
                            "?scheme=http&region=us-east-1&endpoint_override=" + server);
    INFO(store.status().to_string());
    REQUIRE(store.ok());
    return std::move(store).value();
  }
  const std::unique_ptr<Store> inner_;
};

}  // namespace convoy::ckpt
