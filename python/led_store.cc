#include "python/led_store.h"

#include <convoy/base/clock.h>
#include <convoy/base/units.h>

#include <c10/util/Exception.h>

namespace convoy::python {
namespace {

constexpr Nanos kLook = std::chrono::milliseconds(1);

}  // namespace

c10::intrusive_ptr<c10d::Store> LedStore::clone() {
  return c10::make_intrusive<LedStore>(inner_->clone(), called_off_);
}

LedStore::Bytes LedStore::get(const std::string& key) {
  wait({key}, timeout_);
  return inner_->get(key);
}

void LedStore::wait(const std::vector<std::string>& keys,
                    const std::chrono::milliseconds& timeout) {
  const Deadline deadline = Deadline::after(timeout);
  while (!inner_->check(keys)) {
    TORCH_CHECK_WITH(DistBackendError, !called_off_(),
                     "aborted: another rank failed before it had set ", enumerate(keys));
    TORCH_CHECK_WITH(DistStoreError, !deadline.passed(), "deadline exceeded: nobody has set ",
                     enumerate(keys), " within ", timeout.count(), " ms");
    Clock::system().sleep_for(kLook);
  }
}

}  // namespace convoy::python
