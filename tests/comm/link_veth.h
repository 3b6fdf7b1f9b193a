#pragma once

// Two network namespaces joined by a veth pair. Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN).
#include <convoy/base/check.h>

#include <cstdlib>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

namespace convoy::host {

inline bool shell(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

// Namespaces <name>a and <name>b with addresses 10.231.0.1 and .2; gone with the object.
class VethPair {
 public:
  VethPair() : name_("cvy" + std::to_string(::getpid())) {
    ok_ = shell("ip netns add " + space(0)) && shell("ip netns add " + space(1)) &&
          shell("ip -n " + space(0) + " link add veth0 type veth peer name veth1 netns " +
                space(1)) &&
          up(0) && up(1);
  }
  ~VethPair() {
    for (const int side : {0, 1}) shell("ip netns del " + space(side));
  }
  bool ok() const { return ok_; }
  static std::string address(int side) { return "10.231.0." + std::to_string(side + 1); }
  bool cut() const { return shell("ip -n " + space(0) + " link set veth0 down"); }
  void enter(int side) const {
    const int fd = ::open(("/var/run/netns/" + space(side)).c_str(), O_RDONLY | O_CLOEXEC);
    CONVOY_CHECK(fd >= 0 && ::setns(fd, CLONE_NEWNET) == 0);
    ::close(fd);
  }

 private:
  std::string space(int side) const { return name_ + (side == 0 ? "a" : "b"); }
  bool up(int side) const {
    const std::string ip = "ip -n " + space(side), device = "veth" + std::to_string(side);
    return shell(ip + " addr add " + address(side) + "/24 dev " + device) &&
           shell(ip + " link set " + device + " up") && shell(ip + " link set lo up");
  }
  const std::string name_;
  bool ok_ = false;
};

}  // namespace convoy::host
