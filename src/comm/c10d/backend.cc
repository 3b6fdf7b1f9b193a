// The life of a c10d group over the host engine: joining, splitting, failing, and joining anew.
// What it does in between is in collectives.cc and messages.cc.
#include "src/comm/c10d/backend_state.h"
#include "src/comm/c10d/errors.h"
#include "src/comm/c10d/store.h"
#include <convoy/base/log.h>
#include <convoy/comm/allocator.h>
#include <convoy/comm/backend.h>
#include <convoy/comm/host/node.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <random>
#include <unistd.h>

namespace convoy::comm {
namespace {

using std::chrono::milliseconds;

// "00003.host.1234.a1b2c3d4": where the handle's owner stood first, which orders a set of handles,
// and what makes it unique.
constexpr int kHandleRankDigits = 5;

std::string make_handle(int global_rank) {
  static std::random_device entropy;
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  char text[360];
  std::snprintf(text, sizeof(text), "%0*d.%s.%d.%08x", kHandleRankDigits, global_rank, host,
                ::getpid(), static_cast<unsigned>(entropy()));
  return text;
}

int global_rank_of(const std::string& handle) {
  return std::atoi(handle.substr(0, kHandleRankDigits).c_str());
}

std::vector<std::string> ordered(const c10d::ReconfigureOptions& opts) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&opts.handles)) return *list;
  const auto& set = std::get<std::unordered_set<std::string>>(opts.handles);
  std::vector<std::string> handles(set.begin(), set.end());
  std::sort(handles.begin(), handles.end());
  return handles;
}

std::vector<int> global_ranks_of(const Backend::Options& options) {
  return {options.global_ranks_in_group.begin(), options.global_ranks_in_group.end()};
}

// Groups may be made again under the same name in the same store (destroy_process_group and
// init_process_group in one process). Every rank counts its own; the counts agree because all ranks
// make groups in the same order.
c10::intrusive_ptr<c10d::Store> fresh_prefix(const c10::intrusive_ptr<c10d::Store>& store,
                                             int rank) {
  const int64_t time = store->add("convoy/made/" + std::to_string(rank), 1);
  return c10::make_intrusive<c10d::PrefixStore>("convoy/" + std::to_string(time), store);
}

}  // namespace

Backend::Backend(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                 c10::intrusive_ptr<Options> options)
    : c10d::Backend(rank, size), state_(std::make_unique<State>()) {
  TORCH_CHECK_VALUE(size >= 1 && rank >= 0 && rank < size, "convoy: rank ", rank,
                    " is not in a group of ", size);
  state_->store = store;
  state_->options = options ? std::move(options) : c10::make_intrusive<Options>();
  const std::vector<int> ranks = global_ranks_of(*state_->options);
  state_->handle = make_handle(ranks.empty() ? rank : ranks.at(rank));
  state_->name = state_->options->group_name.empty() ? "default" : state_->options->group_name;
  init();
  if (state_->options->enable_reconfigure) {
    state_->why_no_group = "it was made with enable_reconfigure and has not been configured yet";
    return;
  }
  join(fresh_prefix(store, rank), rank, size, state_->name, ranks, state_->options->timeout);
}

Backend::~Backend() {
  shutdown();
}

void Backend::join(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                   const std::string& name, const std::vector<int>& global_ranks,
                   milliseconds timeout) {
  auto node = host::Node::process_wide();
  throw_if_failed(node.status());
  host::GroupOptions options;
  options.name = name;
  options.global_ranks = global_ranks;
  options.join_timeout = timeout;
  options.patience = state_->options->patience;
  options.stops = state_->options->stops;
  C10dStore keys(store, state_->options->stops);
  auto group = host::Group::create(std::move(*node), keys, rank, size, options);
  throw_if_failed(group.status().with_context("joining group " + name));
  const std::lock_guard lock(state_->mutex);
  state_->group = std::move(*group);
  state_->name = name;
  rank_ = rank;
  size_ = size;
}

std::shared_ptr<host::Group> Backend::group() const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->group) {
    throw_status({Code::kFailedPrecondition,
                  "group " + state_->name + " has no members: " + state_->why_no_group});
  }
  return state_->group;
}

c10::intrusive_ptr<c10d::Backend::Options> Backend::getBackendOptions() {
  return state_->options;
}

void Backend::setTimeout(milliseconds timeout) {
  state_->options->timeout = timeout;
}

milliseconds Backend::timeout_or_default(milliseconds timeout) const {
  return timeout > milliseconds(0) ? timeout : state_->options->timeout;
}

uint64_t Backend::getSequenceNumberForGroup() {
  return state_->sequence;
}

bool Backend::is_local() const {
  return group()->is_local();
}

c10::intrusive_ptr<c10d::Backend> Backend::split(
    const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
    const c10::intrusive_ptr<c10d::Backend::Options>& opts) {
  const auto mine = std::find(ranks.begin(), ranks.end(), getRank());
  if (mine == ranks.end()) return nullptr;
  auto options = c10::make_intrusive<Options>(*state_->options);
  options->timeout = opts->timeout;
  options->group_name = opts->group_name;
  options->group_desc = opts->group_desc;
  const std::vector<uint64_t> parents = state_->options->global_ranks_in_group;
  options->global_ranks_in_group.clear();
  for (const int r : ranks) {
    options->global_ranks_in_group.push_back(parents.empty() ? r : parents.at(r));
  }
  return c10::make_intrusive<Backend>(store, static_cast<int>(mine - ranks.begin()),
                                      static_cast<int>(ranks.size()), std::move(options));
}

c10::intrusive_ptr<c10d::Backend> Backend::merge(
    const c10::intrusive_ptr<c10d::Store>& store,
    const c10::intrusive_ptr<c10d::Backend::Options>& opts, const int& rank, const int& size) {
  auto options = c10::make_intrusive<Options>(*state_->options);
  options->timeout = opts->timeout;
  options->group_name = opts->group_name;
  options->group_desc = opts->group_desc;
  options->global_ranks_in_group.clear();
  return c10::make_intrusive<Backend>(store, rank, size, std::move(options));
}

void Backend::abort() {
  std::unique_lock lock(state_->mutex);
  const std::shared_ptr<host::Group> group = state_->group;
  state_->batch.reset();
  lock.unlock();
  if (!group) return;
  state_->hooks->fire_abort();
  group->abort("abort() was called on rank " + std::to_string(getRank()));
}

void Backend::shutdown() {
  state_->lane->close();
  std::unique_lock lock(state_->mutex);
  if (!state_->group) return;
  const std::shared_ptr<host::Group> leaving = std::move(state_->group);
  state_->why_no_group = "it was shut down";
  lock.unlock();  // leaving may block
}

c10d::ErrorType Backend::getError() {
  const std::lock_guard lock(state_->mutex);
  return state_->group ? error_type(state_->group->error()) : c10d::ErrorType::SUCCESS;
}

c10d::ReconfigureHandle Backend::get_reconfigure_handle() const {
  return state_->handle;
}

c10::intrusive_ptr<c10d::Work> Backend::reconfigure(const c10d::ReconfigureOptions& opts) {
  const std::vector<std::string> handles = ordered(opts);
  const auto mine = std::find(handles.begin(), handles.end(), state_->handle);
  TORCH_CHECK_VALUE(mine != handles.end(),
                    "convoy: reconfigure: this process's handle is not among the ", handles.size(),
                    " that were given; a process that is left out must not call it");
  std::unique_lock lock(state_->mutex);
  TORCH_CHECK_VALUE(state_->used_uuids.insert(opts.uuid).second, "convoy: reconfigure: uuid ",
                    opts.uuid, " was used before; every membership needs a new one");
  const std::shared_ptr<host::Group> old = std::move(state_->group);
  state_->why_no_group = "reconfigure() number " + std::to_string(opts.uuid) + " did not succeed";
  state_->batch.reset();
  lock.unlock();
  // Frees threads that are still blocked in the old membership, here and elsewhere.
  if (old) old->abort("the group is being reconfigured");

  std::vector<int> global_ranks;
  global_ranks.reserve(handles.size());
  for (const auto& handle : handles) global_ranks.push_back(global_rank_of(handle));
  const std::string uuid = std::to_string(opts.uuid);
  const std::string base = state_->options->group_name;
  join(c10::make_intrusive<c10d::PrefixStore>("convoy/reconfigure/" + uuid, state_->store),
       static_cast<int>(mine - handles.begin()), static_cast<int>(handles.size()),
       (base.empty() ? "default" : base) + "@" + uuid, global_ranks,
       timeout_or_default(opts.timeout.value_or(milliseconds(0))));
  // All ranks joined; a barrier gives the caller the Work that c10d wants, and proves the group.
  return barrier({});
}

void Backend::registerAbortHook(int64_t id, c10d::AbortHook hook) {
  state_->hooks->add_abort(id, std::move(hook));
}

void Backend::unregisterAbortHook(int64_t id) {
  state_->hooks->remove_abort(id);
}

void Backend::registerCompletionHook(int64_t id, c10d::CompletionHook hook) {
  state_->hooks->add_completion(id, std::move(hook));
}

void Backend::unregisterCompletionHook(int64_t id) {
  state_->hooks->remove_completion(id);
}

void Backend::observe(std::shared_ptr<Observer> observer) {
  state_->hooks->observe(std::move(observer));
}

std::shared_ptr<c10::Allocator> Backend::getMemAllocator() {
  return {shared_allocator(), [](c10::Allocator*) {}};  // lives as long as the process
}

at::Tensor Backend::allocateTensor(long size, at::TensorOptions options) {
  TORCH_CHECK_VALUE(options.device().is_cpu(), "convoy: allocates CPU tensors, not on ",
                    options.device());
  return empty_shared({size}, c10::typeMetaToScalarType(options.dtype()));
}

}  // namespace convoy::comm
