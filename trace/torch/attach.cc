// Which hooks a group gets.
#include "trace/torch/call_facts.h"
#include "trace/torch/group_tap.h"
#include "trace/torch/operation_names.h"
#include <convoy/comm/backend.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/torch/attach.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <unistd.h>
#include <utility>

namespace convoy::trace {
namespace {

using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

// c10d fires hooks in the order of their ids.
constexpr int64_t kHookId = 0x634f4e564f590000;  // "cONVOY"

struct Attached {
  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<GroupTap> tap;
};

struct State {
  std::mutex mutex;
  std::map<const c10d::ProcessGroup*, Attached> groups;  // guarded by mutex, as what follows
  std::map<std::string, int> names;                      // how many groups have had each
  pid_t pid = 0;
};

State& state() {
  static auto* const the = new State;
  return *the;
}

std::vector<BackendPtr> backends_of(c10d::ProcessGroup& group,
                                    std::vector<c10::DeviceType>& devices) {
  std::vector<BackendPtr> backends;
  for (const c10::Device& device : group.getDeviceTypes()) {
    backends.push_back(group.getBackend(device.type()));
    devices.push_back(device.type());
  }
  return backends;
}

// Where operations without a tensor run, and batches: on the accelerator, if there is one.
c10::DeviceType usual_device(const std::vector<c10::DeviceType>& devices) {
  const auto found = std::ranges::find_if(
      devices, [](c10::DeviceType type) { return type != c10::DeviceType::CPU; });
  return found == devices.end() ? c10::DeviceType::CPU : *found;
}

GroupTap::Completion completion_of(const c10d::Backend& backend) {
  if (backend.supportsCompletionHooks()) return GroupTap::Completion::kHooks;
  return backend.getBackendName() == "gloo" ? GroupTap::Completion::kFuture
                                            : GroupTap::Completion::kWatch;
}

// Of the job, in the group's order.
std::vector<uint32_t> ranks_of(const c10d::ProcessGroup& group,
                               const std::vector<BackendPtr>& backends) {
  const auto size = static_cast<size_t>(group.getSize());
  std::vector<uint32_t> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  for (const BackendPtr& backend : backends) {
    try {
      const auto known = backend->getBackendOptions()->global_ranks_in_group;
      if (known.size() != size) continue;
      std::ranges::transform(known, ranks.begin(),
                             [](uint64_t rank) { return static_cast<uint32_t>(rank); });
      break;
    } catch (const c10::Error&) {
      // It has no options.
    }
  }
  return ranks;
}

std::string name_of(const c10d::ProcessGroup& group, const AttachOptions& options) {
  if (!options.name.empty()) return options.name;
  try {
    if (!group.getGroupName().empty()) return group.getGroupName();
  } catch (const c10::Error&) {
    // It has none.
  }
  return "group of " + std::to_string(group.getSize());
}

void add_hooks(c10d::ProcessGroup& group, const std::vector<BackendPtr>& backends,
               const std::shared_ptr<GroupTap>& tap) {
  for (const BackendPtr& backend : backends) {
    if (backend->supportsCompletionHooks()) {
      backend->registerCompletionHook(
          kHookId, [tap](const c10d::CompletionHookArgs& args) { tap->completed(args); });
    }
    if (auto* own = dynamic_cast<comm::Backend*>(backend.get())) own->observe(tap);
  }
  group.registerPreHook(kHookId, [tap](const c10d::PreHookArgs& args) { tap->before(args); });
  group.registerPostHook(kHookId, [tap](const c10d::PostHookArgs& args) { tap->after(args); });
}

}  // namespace

Status attach(const GroupPtr& group, const AttachOptions& options) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (std::exchange(s.pid, ::getpid()) != ::getpid()) {
    s.groups.clear();
    s.names.clear();
    forget_operation_names();
  }
  std::erase_if(s.groups, [](const auto& item) { return item.second.group.expired(); });
  if (s.groups.contains(group.get())) return ok_status();

  std::vector<c10::DeviceType> devices;
  const std::vector<BackendPtr> backends = backends_of(*group, devices);
  std::vector<uint32_t> ranks = options.ranks.empty() ? ranks_of(*group, backends) : options.ranks;
  const auto size = static_cast<size_t>(group->getSize());
  if (ranks.size() != size) {
    return {Code::kInvalidArgument, std::to_string(ranks.size()) +
                                        " ranks were named for a group of " + std::to_string(size)};
  }
  // Groups that are made again under a name are others.
  std::string name = name_of(*group, options);
  const int time = ++s.names[name];
  if (time > 1) name.append("#").append(std::to_string(time));
  const uint16_t text = intern(group_text({name, ranks}));
  if (text == 0) {
    return {Code::kFailedPrecondition, "operations of group " + name +
                                           " can't be recorded: no recorder is open, or it has "
                                           "no room for names"};
  }
  CallFacts::watch_calls();
  GroupTap::Completions completions;
  completions.fill(GroupTap::Completion::kWatch);
  for (size_t i = 0; i < devices.size(); ++i) {
    completions[static_cast<size_t>(devices[i])] = completion_of(*backends[i]);
  }
  const auto tap =
      std::make_shared<GroupTap>(text, std::move(ranks), completions, usual_device(devices));
  add_hooks(*group, backends, tap);
  s.groups.emplace(group.get(), Attached{c10::weak_intrusive_ptr<c10d::ProcessGroup>(group), tap});
  return ok_status();
}

void batch_ended(const GroupPtr& group, const c10::intrusive_ptr<c10d::Work>& work) {
  State& s = state();
  std::unique_lock lock(s.mutex);
  const auto found = s.groups.find(group.get());
  if (found == s.groups.end()) return;
  const std::shared_ptr<GroupTap> tap = found->second.tap;
  lock.unlock();
  tap->batch_ended(work);
}

}  // namespace convoy::trace
