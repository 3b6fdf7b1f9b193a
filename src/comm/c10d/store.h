#pragma once

#include <convoy/rendezvous/store.h>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <atomic>
#include <memory>
#include <string>

namespace convoy::comm {

// Convoy's Store over one of c10d (TCPStore, FileStore, PrefixStore, ...). Holds a clone, i.e. its
// own connection, so that a blocking get() does not hold up others who use the caller's store.
// Thread-safe as far as the store below is.
class C10dStore final : public Store {
 public:
  // Once `stops` is true, get() ends with kAborted. Null: never.
  explicit C10dStore(const c10::intrusive_ptr<c10d::Store>& store,
                     std::shared_ptr<const std::atomic<bool>> stops = {});
  Status set(const std::string& key, const std::string& value) override;
  Result<std::string> get(const std::string& key, Deadline deadline) override;

 private:
  Status look_for(const std::string& key, Deadline deadline);

  c10::intrusive_ptr<c10d::Store> store_;
  std::shared_ptr<const std::atomic<bool>> stops_;
};

}  // namespace convoy::comm
