// Who leads a job, against a made-up etcd: never two at once, and whoever leads no more can't
// write. A real etcd: recover_elastic.
#include "src/resilience/etcd/leadership.h"

#include <catch2/catch.hpp>

#include <chrono>
#include <future>
#include <map>
#include <mutex>
#include <thread>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Keys and leases; a lease ends only when a test says so.
struct Keys {
  struct Entry {
    std::string value;
    int64_t lease = 0;
  };
  std::mutex mutex;
  std::map<std::string, Entry> entries;
  std::map<int64_t, bool> leases;  // by id: whether it is alive
  int64_t last = 0, revision = 1;
  bool is_away = false;

  void end_lease(int64_t lease) {
    const std::lock_guard lock(mutex);
    leases[lease] = false;
    std::erase_if(entries, [&](const auto& e) { return e.second.lease == lease; });
    ++revision;
  }
  int64_t lease_of(const std::string& key) {
    const std::lock_guard lock(mutex);
    return entries.at(key).lease;
  }
};

class MadeUpEtcd final : public Etcd {
 public:
  explicit MadeUpEtcd(Keys& keys) : keys_(keys) {}

  Result<Found> get(const std::string& key) override {
    const std::lock_guard lock(keys_.mutex);
    if (keys_.is_away) return away();
    const auto at = keys_.entries.find(key);
    Found found{.value = {}, .revision = keys_.revision};
    if (at != keys_.entries.end()) found.value = at->second.value;
    return found;
  }
  Result<int64_t> grant(Nanos /*ttl*/) override {
    const std::lock_guard lock(keys_.mutex);
    if (keys_.is_away) return away();
    keys_.leases[++keys_.last] = true;
    return keys_.last;
  }
  Status keep_alive(int64_t lease) override {
    const std::lock_guard lock(keys_.mutex);
    if (keys_.is_away) return away();
    return keys_.leases[lease] ? ok_status() : Status(Code::kAborted, "over");
  }
  Status revoke(int64_t lease) override {
    keys_.end_lease(lease);
    return ok_status();
  }
  Result<bool> put_if(const Condition& condition, const std::string& key, const std::string& value,
                      int64_t lease) override {
    const std::lock_guard lock(keys_.mutex);
    if (keys_.is_away) return away();
    const auto at = keys_.entries.find(condition.key);
    const bool is_there = at != keys_.entries.end();
    const bool holds = condition.value        ? is_there && at->second.value == *condition.value
                       : condition.lease != 0 ? is_there && at->second.lease == condition.lease
                                              : !is_there;
    if (!holds) return false;
    keys_.entries[key] = {value, lease};
    ++keys_.revision;
    return true;
  }
  Status await_change(const std::string& /*key*/, int64_t revision, Nanos timeout) override {
    const auto end = std::chrono::steady_clock::now() + std::min<Nanos>(timeout, milliseconds(50));
    while (std::chrono::steady_clock::now() < end) {
      {
        const std::lock_guard lock(keys_.mutex);
        if (keys_.revision != revision) break;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return ok_status();
  }

 private:
  static Status away() { return {Code::kUnavailable, "etcd is away"}; }
  Keys& keys_;
};

std::unique_ptr<Leadership> contender(Keys& keys, const std::string& name) {
  return std::make_unique<Leadership>(std::make_unique<MadeUpEtcd>(keys),
                                      Leadership::Self{"job", name + ":1", name});
}

constexpr const char* kLeader = "/convoy/job/leader";

}  // namespace

TEST_CASE("one leads, the others know who, and its next process takes over at once") {
  Keys keys;
  auto a = contender(keys, "a");
  const auto b = contender(keys, "b");
  CHECK(a->claim()->is_self);
  const auto told = b->claim();
  REQUIRE(told.ok());
  CHECK_FALSE(told->is_self);
  CHECK(told->address == "a:1");
  CHECK(b->save("nonsense").code() == Code::kAborted);
  CHECK(a->save("state").ok());

  const auto next = contender(keys, "a");  // the process before was killed: its lease lives on
  const int64_t old = keys.lease_of(kLeader);
  CHECK(next->claim()->is_self);
  CHECK(keys.lease_of(kLeader) != old);
  CHECK(next->load().value() == "state");
  CHECK(a->save("late").code() == Code::kAborted);  // it was only halted
  CHECK(next->load().value() == "state");
}

TEST_CASE("who has lost the lead hears of it, and so do those who followed") {
  Keys keys;
  const auto a = contender(keys, "a"), b = contender(keys, "b");
  REQUIRE(a->claim()->is_self);
  REQUIRE(b->claim().ok());
  std::promise<std::string> leads_no_more, follows_no_more;
  a->watch([&](const std::string& why) { leads_no_more.set_value(why); });
  b->watch([&](const std::string& why) { follows_no_more.set_value(why); });
  keys.end_lease(keys.lease_of(kLeader));
  CHECK_THAT(leads_no_more.get_future().get(), Catch::Contains("lease is over"));
  CHECK_THAT(follows_no_more.get_future().get(), Catch::Contains("another one leads"));
  CHECK(contender(keys, "b")->claim()->is_self);
}

TEST_CASE("without etcd the leader stops, and whoever follows waits") {
  Keys keys;
  const auto a = contender(keys, "a"), b = contender(keys, "b");
  REQUIRE(a->claim()->is_self);
  REQUIRE(b->claim().ok());
  std::promise<std::string> leads_no_more, follows_no_more;
  auto follower = follows_no_more.get_future();
  a->watch([&](const std::string& why) { leads_no_more.set_value(why); });
  b->watch([&](const std::string& why) { follows_no_more.set_value(why); });
  {
    const std::lock_guard lock(keys.mutex);
    keys.is_away = true;
  }
  CHECK_THAT(leads_no_more.get_future().get(), Catch::Contains("etcd is not reached"));
  CHECK(follower.wait_for(milliseconds(10)) == std::future_status::timeout);
  CHECK(contender(keys, "c")->claim().status().code() == Code::kUnavailable);
  {
    const std::lock_guard lock(keys.mutex);
    keys.is_away = false;
  }
  keys.end_lease(keys.lease_of(kLeader));
  CHECK_THAT(follower.get(), Catch::Contains("another one leads"));
}
