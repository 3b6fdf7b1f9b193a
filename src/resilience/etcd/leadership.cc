#include "src/resilience/etcd/leadership.h"

#include <convoy/base/log.h>

#include <utility>

namespace convoy::resilience {
namespace {

// The next one leads so long after a leader's death.
constexpr Nanos kLease = std::chrono::seconds(3);
// The state is forgotten when nobody has led the job for so long.
constexpr Nanos kStateLease = std::chrono::minutes(5);
constexpr Nanos kKeptEvery = std::chrono::milliseconds(400);
// A leader that can't keep its lease alive stops before another one can begin.
constexpr Nanos kTrusted = std::chrono::milliseconds(1700);
constexpr Nanos kLook = std::chrono::milliseconds(500);  // then it looks whether it is to end

}  // namespace

Leadership::Leadership(std::unique_ptr<Etcd> etcd, Self self)
    : etcd_(std::move(etcd)), self_(std::move(self)), own_(self_.address + " " + self_.name) {}

Leadership::~Leadership() {
  is_ending_ = true;
  if (thread_.joinable()) thread_.join();
  if (lease_ == 0) return;
  const Status given_back = etcd_->revoke(lease_);
  if (!given_back.ok()) {
    CONVOY_LOG(Debug) << given_back.message();
  }
}

Result<Leadership::Leader> Leadership::claim() {
  CONVOY_ASSIGN_OR_RETURN(const Etcd::Found found, etcd_->get(leader_key()));
  revision_ = found.revision;
  leader_ = found.value.value_or("");
  if (!leader_.empty() && leader_ != own_)
    return Leader{false, leader_.substr(0, leader_.find(' '))};
  // The lease that a predecessor of the same launcher has held ends by itself.
  const TimePoint now = Clock::system().now();
  CONVOY_ASSIGN_OR_RETURN(lease_, etcd_->grant(kLease));
  CONVOY_ASSIGN_OR_RETURN(state_lease_, etcd_->grant(kStateLease));
  const Etcd::Condition unclaimed{.key = leader_key(), .value = found.value};
  CONVOY_ASSIGN_OR_RETURN(const bool leads, etcd_->put_if(unclaimed, leader_key(), own_, lease_));
  if (leads) {
    kept_at_ = now;
    leader_ = own_;
    return Leader{true, self_.address};
  }
  lease_ = 0;
  return Status(Code::kUnavailable, "another machine was faster");
}

void Leadership::watch(std::function<void(const std::string& why)> on_change) {
  on_change_ = std::move(on_change);
  thread_ = std::thread([this] { leader_ == own_ ? keep() : look(); });
}

void Leadership::keep() {
  while (!is_ending_) {
    Clock::system().sleep_for(kKeptEvery);
    const TimePoint now = Clock::system().now();
    const Status kept = etcd_->keep_alive(lease_);
    if (kept.ok()) {
      kept_at_ = now;
      [[maybe_unused]] const Status state_kept = etcd_->keep_alive(state_lease_);
      continue;
    }
    if (kept.code() == Code::kAborted) return on_change_("the lease is over: another one leads");
    if (now - kept_at_ > kTrusted) return on_change_("etcd is not reached: " + kept.message());
  }
}

void Leadership::look() {
  while (!is_ending_) {
    const Status waited = etcd_->await_change(leader_key(), revision_, kLook);
    // As long as etcd is away, nobody else begins to lead.
    if (!waited.ok()) Clock::system().sleep_for(kLook);
    const Result<Etcd::Found> found = etcd_->get(leader_key());
    if (!found.ok()) continue;
    if (found->value.value_or("") != leader_) return on_change_("another one leads");
    revision_ = found->revision;
  }
}

Result<std::string> Leadership::load() {
  CONVOY_ASSIGN_OR_RETURN(const Etcd::Found found, etcd_->get(state_key()));
  const std::string state = found.value.value_or("");
  if (!state.empty()) CONVOY_RETURN_IF_ERROR(save(state));  // it is this leader's now
  return state;
}

Status Leadership::save(const std::string& state) {
  const Etcd::Condition leading{.key = leader_key(), .value = {}, .lease = lease_};
  CONVOY_ASSIGN_OR_RETURN(const bool saved,
                          etcd_->put_if(leading, state_key(), state, state_lease_));
  return saved ? ok_status() : Status(Code::kAborted, "another supervisor leads the job");
}

}  // namespace convoy::resilience
