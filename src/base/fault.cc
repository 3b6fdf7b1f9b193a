// Fault points: a map from name to the passages left, behind one flag that is false in real life.
#include <convoy/base/config.h>
#include <convoy/base/fault.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>

namespace convoy::fault {
namespace {

struct Armed {
  std::mutex mutex;
  std::map<std::string, int64_t, std::less<>> passages_left;
};

Armed& armed() {
  static auto* instance = new Armed;  // leaked: points are passed while statics are destroyed
  return *instance;
}

bool load(std::string_view spec) {
  const std::lock_guard lock(armed().mutex);
  armed().passages_left.clear();
  for (const std::string& entry : split(spec, ',')) {
    const size_t at = entry.find('@');
    int64_t passage = 1;
    if (at != std::string::npos) {
      const auto number = parse_integer("CONVOY_FAULT", entry.substr(at + 1), 1);
      CONVOY_CHECK(number.ok(), number.status().message());
      passage = number.value();
    }
    armed().passages_left[entry.substr(0, at)] = passage;
  }
  return !armed().passages_left.empty();
}

std::atomic<bool>& any_armed() {
  static std::atomic<bool> flag{[] {
    const char* spec = std::getenv("CONVOY_FAULT");
    return spec != nullptr && load(spec);
  }()};
  return flag;
}

}  // namespace

bool strikes(std::string_view point) {
  if (!any_armed().load(std::memory_order_relaxed)) [[likely]]
    return false;
  const std::lock_guard lock(armed().mutex);
  const auto found = armed().passages_left.find(point);
  if (found == armed().passages_left.end() || --found->second > 0) return false;
  armed().passages_left.erase(found);
  std::fprintf(stderr, "convoy: fault point %.*s fires\n", static_cast<int>(point.size()),
               point.data());
  return true;
}

void die_at(std::string_view point) {
  if (strikes(point)) ::kill(::getpid(), SIGKILL);
}

void arm(std::string_view spec) {
  any_armed().store(false);
  any_armed().store(load(spec));
}

}  // namespace convoy::fault
