#pragma once

#include "src/comm/host/shm_core.h"
#include <convoy/comm/host/group.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

namespace convoy::host {

class MailLock;

// One send or receive of a local group. Thread-safe. post() is called once, before it is shared.
class ShmTransfer final : public Transfer {
 public:
  ShmTransfer(std::shared_ptr<ShmCore> core, bool sends, void* data, size_t bytes, int peer,
              int tag);
  ~ShmTransfer() override;

  Status post();
  bool test() override;
  Status wait(Deadline deadline) override;
  int source() const override { return source_; }

 private:
  Mailbox& box() const;
  Status post_send();
  Status post_recv();
  uint32_t find_match(Mailbox& box);
  Status make_bounce();
  Status enqueue(Mailbox& box, uint64_t offset);
  void deliver(MailLock& lock, Mailbox& box, uint32_t index, const void* from);
  void take(MailLock& lock, Mailbox& box, uint32_t index);
  bool refuse_size(MailLock& lock, MailEntry& entry);
  void fill(void* to, const void* from, MailEntry& entry);
  bool fetch_claimed();
  void drop_claim();
  bool poll();
  Status standstill() const;
  void withdraw();
  void release();
  void complete(Status status);

  std::string describe() const;
  std::string waiting_text(Nanos waited) const;
  Status wrong_size(uint64_t sent, uint64_t expected, int from, int to) const;

  const std::shared_ptr<ShmCore> core_;
  const bool sends_;
  void* const data_;
  const size_t bytes_;
  const int peer_;
  const int tag_;
  std::mutex mutex_;              // guards what follows
  uint32_t entry_ = kNoEntry;     // in the mailbox, while it waits there
  char* bounce_ = nullptr;        // of our heap: stands for data_
  MailEntry* claimed_ = nullptr;  // of the sender: the message that this receive took
  size_t fetched_ = 0;            // bytes that have reached data_ already
  Status status_;
  std::atomic<int> source_;
  std::atomic<bool> done_{false};  // once set, status_ and source_ don't change
};

}  // namespace convoy::host
