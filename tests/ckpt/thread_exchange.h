#pragma once

#include <convoy/ckpt/load_together.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

// An exchange between threads of one program, for tests and benchmarks.
namespace convoy::ckpt {

// What the threads meet in.
class Hub {
 public:
  using Bytes = Exchange::Bytes;
  using Rows = std::vector<std::vector<Bytes>>;

  explicit Hub(int size) : size_(size), rows_(static_cast<size_t>(size)) {}

  // Everybody's row, by rank. Waits for all, at most a minute.
  Result<std::shared_ptr<Rows>> meet(int rank, std::vector<Bytes> row) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    rows_[static_cast<size_t>(rank)] = std::move(row);
    if (++arrived_ == size_) {
      arrived_ = 0;
      last_ = std::make_shared<Rows>(std::move(rows_));
      rows_ = Rows(static_cast<size_t>(size_));
      ++round_;
      changed_.notify_all();
    } else if (!changed_.wait_for(lock, std::chrono::minutes(1), [&] { return round_ != round; })) {
      return Status(Code::kDeadlineExceeded, "not all ranks came");
    }
    return last_;  // nobody gets to the next one before all have come here
  }

 private:
  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  uint64_t round_ = 0;
  Rows rows_;
  std::shared_ptr<Rows> last_;
};

class ThreadExchange final : public Exchange {
 public:
  ThreadExchange(Hub& hub, int rank, int size) : hub_(hub), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Result<std::vector<Bytes>> all_gather(Bytes mine) override {
    CONVOY_ASSIGN_OR_RETURN(const auto rows, hub_.meet(rank_, {std::move(mine)}));
    std::vector<Bytes> out;
    for (const auto& row : *rows) out.push_back(row.at(0));
    return out;
  }
  Result<std::vector<Bytes>> all_to_all(std::vector<Bytes> to) override {
    size_t sent = 0;
    for (const Bytes& b : to) sent += b.size();
    most_sent = std::max(most_sent, sent);
    ++exchanges;
    CONVOY_ASSIGN_OR_RETURN(const auto rows, hub_.meet(rank_, std::move(to)));
    std::vector<Bytes> out;
    size_t came = 0;
    for (auto& row : *rows) {
      out.push_back(std::move(row.at(static_cast<size_t>(rank_))));
      came += out.back().size();
    }
    most_came = std::max(most_came, came);
    return out;
  }
  size_t most_sent = 0, most_came = 0, exchanges = 0;

 private:
  Hub& hub_;
  int rank_, size_;
};

}  // namespace convoy::ckpt
