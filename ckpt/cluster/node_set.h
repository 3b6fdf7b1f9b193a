#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace convoy::ckpt {

// Some of nodes 0 … n - 1.
class NodeSet {
 public:
  explicit NodeSet(uint32_t nodes = 0) : has_(nodes) {}
  bool has(uint32_t node) const { return has_[node]; }
  // False: it was in already.
  bool add(uint32_t node) {
    if (has_[node]) return false;
    has_[node] = true;
    ++count_;
    return true;
  }
  bool full() const { return count_ == has_.size(); }

 private:
  std::vector<bool> has_;
  size_t count_ = 0;
};

}  // namespace convoy::ckpt
