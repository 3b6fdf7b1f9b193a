// Maps Convoy's store calls to c10d's: deadlines to timeouts, exceptions to Status.
#include "src/comm/c10d/store.h"

#include "src/comm/c10d/errors.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace convoy::comm {
namespace {

using std::chrono::milliseconds;

// Longest single wait that is asked of the store: c10d adds it to a clock reading, which overflows
// for "never".
constexpr milliseconds kWaitMax = std::chrono::hours(24);

// Between two looks for a key.
constexpr Nanos kLookFirst = std::chrono::microseconds(200);
constexpr Nanos kLookLast = std::chrono::milliseconds(10);

// c10d reads 0 as "no timeout", so at least 1 ms.
milliseconds timeout_of(Deadline deadline) {
  const Nanos left = std::min<Nanos>(deadline.left(), kWaitMax);
  return std::max(std::chrono::duration_cast<milliseconds>(left), milliseconds(1));
}

}  // namespace

C10dStore::C10dStore(const c10::intrusive_ptr<c10d::Store>& store,
                     std::shared_ptr<const std::atomic<bool>> stops)
    : store_(store->clone()), stops_(std::move(stops)) {}

Status C10dStore::set(const std::string& key, const std::string& value) {
  try {
    store_->set(key, std::vector<uint8_t>(value.begin(), value.end()));
    return ok_status();
  } catch (...) {
    return current_exception_status().with_context("storing key " + key);
  }
}

// Asks again and again, since a wait of c10d's can't be ended from outside: the later, the less
// often.
Status C10dStore::look_for(const std::string& key, Deadline deadline) {
  const TimePoint begin = Clock::system().now();
  Nanos pause = kLookFirst;
  while (!store_->check({key}) && !deadline.passed()) {
    if (*stops_) return {Code::kAborted, "it is not waited for any more"};
    Clock::system().sleep_for(pause);
    const Nanos most = std::max(kLookLast, (Clock::system().now() - begin) / 20);
    pause = std::min(2 * pause, most);
  }
  return ok_status();
}

Result<std::string> C10dStore::get(const std::string& key, Deadline deadline) {
  try {
    if (stops_) CONVOY_RETURN_IF_ERROR(look_for(key, deadline));
    store_->wait({key}, timeout_of(deadline));
    const std::vector<uint8_t> value = store_->get(key);
    return std::string(value.begin(), value.end());
  } catch (...) {
    return current_exception_status().with_context("waiting for key " + key);
  }
}

}  // namespace convoy::comm
