#pragma once

#include <convoy/rendezvous/store.h>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <string>

namespace convoy::comm {

// Convoy's Store over one of c10d (TCPStore, FileStore, PrefixStore, ...). Holds a clone, i.e. its
// own connection, so that a blocking get() does not hold up others who use the caller's store.
// Thread-safe as far as the store below is.
class C10dStore final : public Store {
 public:
  explicit C10dStore(const c10::intrusive_ptr<c10d::Store>& store);
  Status set(const std::string& key, const std::string& value) override;
  Result<std::string> get(const std::string& key, Deadline deadline) override;

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

}  // namespace convoy::comm
