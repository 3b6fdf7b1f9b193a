#pragma once

#include "trace/torch/in_flight.h"
#include <convoy/comm/backend.h>

#include <torch/csrc/distributed/c10d/Hooks.hpp>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace convoy::trace {

// What stands behind the hooks of one group. Shared by the hooks, the backend's works, and whoever
// waits for a completion; thread-safe.
class GroupTap final : public comm::Observer, public std::enable_shared_from_this<GroupTap> {
 public:
  // How the completion of an operation is learned.
  enum class Completion : uint8_t {
    kHooks,   // the backend calls completed()
    kFuture,  // of the Work; messages have none, and are watched
    kWatch,   // the Work is looked at
  };
  using Completions = std::array<Completion, c10::COMPILE_TIME_MAX_DEVICE_TYPES>;

  // `group`: its interned text; `ranks`: of the job. `completions`: for each type of device;
  // `usual_device`: where operations without a tensor run.
  GroupTap(uint16_t group, std::vector<uint32_t> ranks, const Completions& completions,
           c10::DeviceType usual_device);

  void before(const c10d::PreHookArgs& call);
  void after(const c10d::PostHookArgs& call);
  void completed(const c10d::CompletionHookArgs& completion);
  // The operations that this thread has issued without getting a Work complete with `work`.
  void batch_ended(const c10::intrusive_ptr<c10d::Work>& work);
  // It has run for `ns`, or 0.
  void record_completed(const Issued& issued, uint64_t ns) const;
  // Gives an operation of kind kFromAny its place among the sender's messages.
  void came_from(Issued& issued, int from);

  void made(uint64_t key, bool messages) override;
  void started(uint64_t key) override;
  void received(uint64_t key, int from) override;
  void dropped(uint64_t key) override;

 private:
  struct Frame;
  struct Frames;
  static thread_local constinit Frames frames_;
  static std::vector<std::pair<const GroupTap*, Issued>>& batch_of_thread();

  bool issue(const c10d::PreHookArgs& call, Frame& frame);
  bool number(const c10d::PreHookArgs& call, Issued& issued);
  void await(c10::DeviceType device, const c10::intrusive_ptr<c10d::Work>& work,
             std::span<const Issued> operations);
  void await_stream(c10::DeviceType device, std::vector<Issued> operations);
  bool await_future(const Issued& issued, c10d::Work& work);
  // Takes this group's out of the thread's batch.
  std::vector<Issued> take_batch(bool messages, bool collectives) const;

  const uint16_t group_;
  const std::vector<uint32_t> ranks_;
  const Completions completions_;
  const c10::DeviceType usual_device_;
  std::atomic<uint32_t> collectives_{0};
  // Messages to each rank of the group, then from each.
  std::vector<std::atomic<uint32_t>> messages_;
  InFlight in_flight_;
  std::atomic<uint64_t> futureless_{0};  // operations whose works have no future, by name
};

}  // namespace convoy::trace
