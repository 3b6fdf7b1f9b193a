// Method: the text is parsed and asked about operations directly; the socket is used as a test
// outside would use it; the process-wide object is made in forked children. Not checked: what the
// communicator does about a fault (nccl_test.cc).
#include "src/standin/nccl/faults.h"

#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace convoy::standin::nccl {
namespace {

using Kind = Fault::Kind;
using Where = Faults::Where;

std::string error_of(const std::string& text) {
  std::vector<FaultRule> rules;
  std::string why;
  return parse_faults(text, rules, why) ? "" : why;
}

// One connection; sends the lines and returns everything up to the last answer's empty line.
std::string ask(const std::string& path, const std::string& lines, int answers) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const timeval limit{20, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  (void)!::send(fd, lines.data(), lines.size(), MSG_NOSIGNAL);
  std::string all;
  while (answers > 0) {
    char c = 0;
    if (::recv(fd, &c, 1, 0) != 1) break;
    all += c;
    const bool ends = all == "\n" || (all.size() >= 2 && all.substr(all.size() - 2) == "\n\n");
    if (ends) --answers;
  }
  ::close(fd);
  return all;
}

int exit_code_of(const std::vector<std::pair<const char*, std::string>>& environment) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (const auto& [name, value] : environment) ::setenv(name, value.c_str(), 1);
    (void)Faults::get();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("a fault strikes the operations that it names and no other") {
  Faults faults;
  std::string why;
  REQUIRE(faults.at(Where::kernel, "a", 2, 17, "AllReduce").kind == Kind::none);
  REQUIRE(
      faults.add("rank=2 op=17 do=hang; rank=1 op=5 do=fail result=system_error; rank=0 do=slow "
                 "by=50ms; rank=3 op=9+ do=die; rank=1 comm=dp kind=Send do=proxy_delay by=2us",
                 why));
  CHECK(faults.at(Where::kernel, "a", 2, 17, "AllReduce").kind == Kind::hang);
  CHECK(faults.at(Where::kernel, "a", 2, 16, "AllReduce").kind == Kind::none);
  CHECK(faults.at(Where::kernel, "a", 2, 18, "AllReduce").kind == Kind::none);
  const Fault fail = faults.at(Where::kernel, "a", 1, 5, "Send");
  CHECK(fail.kind == Kind::fail);
  CHECK(fail.result == 2);
  const Fault slow = faults.at(Where::kernel, "b", 0, 1234, "Broadcast");
  CHECK(slow.kind == Kind::slow);
  CHECK(slow.by == std::chrono::milliseconds(50));
  CHECK(faults.at(Where::kernel, "a", 3, 8, "AllReduce").kind == Kind::none);
  CHECK(faults.at(Where::kernel, "a", 3, 9, "AllReduce").kind == Kind::die);
  CHECK(faults.at(Where::kernel, "a", 3, 100, "AllReduce").kind == Kind::die);
  CHECK(faults.at(Where::launch, "dp", 1, 1, "Send").kind == Kind::proxy_delay);
  CHECK(faults.at(Where::launch, "dp", 1, 5, "Recv").kind == Kind::none);
  CHECK(faults.at(Where::kernel, "dp", 1, 1, "Send").kind == Kind::none);
  CHECK(faults.at(Where::kernel, "dp", 1, 1, "Recv").kind == Kind::none);
  CHECK(faults.at(Where::kernel, "pp", 1, 1, "Send").kind == Kind::none);
  faults.clear();
  CHECK(faults.at(Where::kernel, "a", 2, 17, "AllReduce").kind == Kind::none);
}

TEST_CASE("fail without a result is ncclRemoteError, and empty parts are nothing") {
  std::vector<FaultRule> rules;
  std::string why;
  REQUIRE(parse_faults(" ; do=fail ;; ", rules, why));
  REQUIRE(rules.size() == 1);
  CHECK(rules[0].fault.result == 6);
}

TEST_CASE("a bad fault is refused with the word and what was wanted") {
  CHECK(error_of("rank=2 op=17") ==
        "'rank=2 op=17': do= is missing; one of die, fail, hang, "
        "proxy_delay, slow");
  CHECK(error_of("do=explode").find("wanted do=one of die") != std::string::npos);
  CHECK(error_of("do=hang rank=-1").find("wanted rank=a rank") != std::string::npos);
  CHECK(error_of("do=hang op=0").find("a number from 1 on") != std::string::npos);
  CHECK(error_of("do=hang op=+").find("a number from 1 on") != std::string::npos);
  CHECK(error_of("do=hang op=99999999999999999999").find("a number") != std::string::npos);
  CHECK(error_of("do=slow").find("they need it") != std::string::npos);
  CHECK(error_of("do=hang by=1s").find("belongs to do=slow") != std::string::npos);
  CHECK(error_of("do=slow by=5").find("a time like 50ms") != std::string::npos);
  CHECK(error_of("do=slow by=5min").find("a time like 50ms") != std::string::npos);
  CHECK(error_of("do=hang result=timeout").find("belongs to do=fail") != std::string::npos);
  CHECK(error_of("do=fail result=oops").find("remote_error") != std::string::npos);
  CHECK(error_of("do=hang when=now").find("wanted do=, rank=") != std::string::npos);
  CHECK(error_of("do=hang comm=").find("a name") != std::string::npos);
}

TEST_CASE("a bad environment ends the process with the code of a bad configuration") {
  CHECK(exit_code_of({{"CONVOY_STANDIN_NCCL_FAULT", "rank=2 op=1 do=hang"}}) == 0);
  CHECK(exit_code_of({{"CONVOY_STANDIN_NCCL_FAULT", "rank=2 op=1 do=sing"}}) == 64);
  CHECK(exit_code_of({{"CONVOY_STANDIN_CONTROL", "/no/such/folder"}}) == 64);
  CHECK(exit_code_of({{"CONVOY_STANDIN_CONTROL", "/" + std::string(200, 'x')}}) == 64);
}

TEST_CASE("the socket answers each line, and what it injects strikes") {
  const TempFolder folder;
  const std::string path = folder / "control.sock";
  {
    Faults faults;
    std::string why;
    REQUIRE(faults.listen(path, why));
    const int id = faults.add_status([] { return std::string("communicator 'x': idle\n"); });
    const std::string text = ask(path, "status\nfault rank=1 do=hang\nfault do=\nnonsense\n", 4);
    CHECK(text == "process " + std::to_string(::getpid()) +
                      ", 1 communicators\ncommunicator 'x': idle\n\nok\n\n"
                      "error: 'do=': wanted do=one of die, fail, hang, proxy_delay, slow\n\n"
                      "error: wanted status, faults, fault TEXT or clear\n\n");
    CHECK(faults.at(Where::kernel, "x", 1, 1, "AllReduce").kind == Kind::hang);
    faults.remove_status(id);
    CHECK(ask(path, "faults\nclear\nfaults\n", 3) == "rank=1 do=hang: struck 1 times\n\nok\n\n\n");
    CHECK(faults.at(Where::kernel, "x", 1, 1, "AllReduce").kind == Kind::none);
    // Garbage without an end of line ends the connection, not the service.
    CHECK(ask(path, std::string(10'000, 'y'), 1).empty());
    CHECK(ask(path, "faults\n", 1) == "\n");
  }
  CHECK(::access(path.c_str(), F_OK) != 0);
}

}  // namespace
}  // namespace convoy::standin::nccl
