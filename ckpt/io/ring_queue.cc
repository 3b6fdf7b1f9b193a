// The queue over io_uring. What its kernel lacks (probed opcode by opcode), and opens and
// truncations, which are rare, a helper thread performs.
#include "ckpt/io/io_queue.h"
#include <convoy/base/fd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>

namespace convoy::ckpt {
namespace {

// Marks the completion of the poll on the event descriptor; requests are addresses.
constexpr uint64_t kWakeTag = 1;
// Room in the ring beyond the depth: the poll, and requests that were lost and no longer count.
constexpr unsigned kSpareEntries = 72;

class RingQueue final : public IoQueue {
 public:
  RingQueue() : helper_(make_thread_queue(1, [this] { wake(); })) {}
  ~RingQueue() override {
    helper_.reset();  // before what its callback uses
    if (ready_) ::io_uring_queue_exit(&ring_);
  }

  // 0 or an errno value.
  int set_up(unsigned depth) {
    const int made = ::io_uring_queue_init(depth + kSpareEntries, &ring_, 0);
    if (made < 0) return -made;
    ready_ = true;
    io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
    if (probe == nullptr) return ENOSYS;
    const auto has = [&](int op) { return ::io_uring_opcode_supported(probe, op) != 0; };
    const bool basics = has(IORING_OP_READ) && has(IORING_OP_WRITE) && has(IORING_OP_POLL_ADD);
    fsync_ = has(IORING_OP_FSYNC);
    allocate_ = has(IORING_OP_FALLOCATE);
    fixed_ = has(IORING_OP_READ_FIXED) && has(IORING_OP_WRITE_FIXED) &&
             ::io_uring_register_buffers_sparse(&ring_, kMemorySlots) == 0;
    ::io_uring_free_probe(probe);
    if (!basics) return ENOSYS;
    event_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_) return errno;
    arm_event();
    return 0;
  }

  void start(IoRequest* r) override {
    const bool mine = r->op == IoOp::kRead || r->op == IoOp::kWrite ||
                      (r->op == IoOp::kSync && fsync_) || (r->op == IoOp::kAllocate && allocate_);
    if (!mine) {
      helper_->start(r);
      return;
    }
    io_uring_sqe* sqe = get_sqe();
    const auto bytes = static_cast<unsigned>(r->bytes);
    const int slot = slot_of(*r);
    if (r->op == IoOp::kRead && slot >= 0) {
      ::io_uring_prep_read_fixed(sqe, r->fd, r->data, bytes, r->offset, slot);
    } else if (r->op == IoOp::kRead) {
      ::io_uring_prep_read(sqe, r->fd, r->data, bytes, r->offset);
    } else if (r->op == IoOp::kWrite && slot >= 0) {
      ::io_uring_prep_write_fixed(sqe, r->fd, r->data, bytes, r->offset, slot);
    } else if (r->op == IoOp::kWrite) {
      ::io_uring_prep_write(sqe, r->fd, r->data, bytes, r->offset);
    } else if (r->op == IoOp::kSync) {
      ::io_uring_prep_fsync(sqe, r->fd, 0);
    } else {
      ::io_uring_prep_fallocate(sqe, r->fd, 0, 0, static_cast<off_t>(r->offset));
    }
    ::io_uring_sqe_set_data(sqe, r);
    // At once: the caller may copy the next block before it waits. What the kernel does not take
    // now, wait() offers again.
    ::io_uring_submit(&ring_);
  }

  void wait(std::vector<IoRequest*>& done, Nanos timeout) override {
    const size_t before = done.size();
    reap(done);
    if (done.size() == before && !woken_) {
      __kernel_timespec ts{};
      ts.tv_sec = timeout.count() / 1'000'000'000;
      ts.tv_nsec = timeout.count() % 1'000'000'000;
      io_uring_cqe* cqe = nullptr;
      ::io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &ts, nullptr);
      reap(done);
    }
    woken_ = false;
  }

  void wake() override { (void)::eventfd_write(event_.get(), 1); }

  bool register_memory(unsigned slot, std::span<std::byte> memory, std::string& why) override {
    if (!fixed_) {
      why = "the kernel's io_uring has no table of buffers (it came with Linux 5.19)";
      return false;
    }
    const iovec vec{memory.data(), memory.size()};
    const __u64 tag = 0;
    const int n = ::io_uring_register_buffers_update_tag(&ring_, slot, &vec, &tag, 1);
    if (n < 0) {
      why = std::strerror(-n);
      if (n == -ENOMEM) why += " (RLIMIT_MEMLOCK: `ulimit -l`)";
      return false;
    }
    memory_[slot] = memory;
    return true;
  }

  void forget_memory(unsigned slot) override {
    const iovec none{nullptr, 0};
    const __u64 tag = 0;
    if (fixed_) ::io_uring_register_buffers_update_tag(&ring_, slot, &none, &tag, 1);
    memory_[slot] = {};
  }

  bool is_ring() const override { return true; }

 private:
  io_uring_sqe* get_sqe() {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    while (sqe == nullptr) {  // the kernel was too busy to take what is there
      ::io_uring_submit(&ring_);
      sqe = ::io_uring_get_sqe(&ring_);
    }
    return sqe;
  }

  void arm_event() {
    io_uring_sqe* sqe = get_sqe();
    ::io_uring_prep_poll_add(sqe, event_.get(), POLLIN);
    ::io_uring_sqe_set_data64(sqe, kWakeTag);
    ::io_uring_submit(&ring_);
  }

  int slot_of(const IoRequest& r) const {
    for (unsigned i = 0; i < kMemorySlots; ++i) {
      const std::span<std::byte> m = memory_[i];
      if (!m.empty() && r.data >= m.data() && r.data + r.bytes <= m.data() + m.size()) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  void reap(std::vector<IoRequest*>& done) {
    io_uring_cqe* cqe = nullptr;
    while (::io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr) {
      const uint64_t tag = ::io_uring_cqe_get_data64(cqe);
      auto* request = static_cast<IoRequest*>(::io_uring_cqe_get_data(cqe));
      const int result = cqe->res;
      ::io_uring_cqe_seen(&ring_, cqe);
      if (tag == kWakeTag) {
        eventfd_t ignored = 0;
        (void)::eventfd_read(event_.get(), &ignored);
        woken_ = true;
        arm_event();
      } else if (tag != LIBURING_UDATA_TIMEOUT) {
        request->result = result;
        done.push_back(request);
      }
    }
    helper_->wait(done, Nanos::zero());
  }

  io_uring ring_{};
  bool ready_ = false;
  bool fsync_ = false, allocate_ = false, fixed_ = false;
  bool woken_ = false;
  UniqueFd event_;
  std::span<std::byte> memory_[kMemorySlots];
  std::unique_ptr<IoQueue> helper_;
};

std::string likely_cause(int error) {
  int disabled = 0;
  std::ifstream("/proc/sys/kernel/io_uring_disabled") >> disabled;
  if (disabled != 0) {
    return "kernel.io_uring_disabled is " + std::to_string(disabled) + " (sysctl)";
  }
  if (error == ENOSYS) return "the kernel is too old, or a seccomp filter hides it";
  if (error == EPERM || error == EACCES) return "a seccomp filter (of the container) forbids it";
  if (error == ENOMEM) return "RLIMIT_MEMLOCK is too small (`ulimit -l`)";
  return std::strerror(error);
}

}  // namespace

std::unique_ptr<IoQueue> make_ring_queue(unsigned depth, std::string& why_not) {
  auto queue = std::make_unique<RingQueue>();
  const int error = queue->set_up(depth);
  if (error == 0) return queue;
  why_not = likely_cause(error);
  return nullptr;
}

}  // namespace convoy::ckpt
