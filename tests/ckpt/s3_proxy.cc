#include "tests/ckpt/s3_proxy.h"

#include <convoy/base/check.h>
#include <convoy/base/fd.h>

#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

std::string address(bool direct) {
  const char* const text = std::getenv(direct ? "CONVOY_TEST_S3_DIRECT" : "CONVOY_TEST_S3");
  CONVOY_CHECK(text != nullptr, "run this through tests/ckpt/s3_server.py");
  return text;
}

std::string encoded(const std::string& text) {
  std::string out;
  for (const char c : text) {
    char code[4];
    std::snprintf(code, sizeof code, "%%%02X", static_cast<unsigned char>(c));
    out += code;
  }
  return out;
}

std::string ask(const std::string& target) {
  const std::string where = address(false);
  const size_t colon = where.find(':');
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(std::stoi(where.substr(colon + 1))));
  ::inet_pton(AF_INET, where.substr(0, colon).c_str(), &at.sin_addr);
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CONVOY_CHECK(::connect(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0,
               "the proxy has gone");
  const std::string request = "GET " + target + " HTTP/1.1\r\n\r\n";
  CONVOY_CHECK(
      ::write(fd.get(), request.data(), request.size()) == static_cast<ssize_t>(request.size()),
      "the proxy does not read");
  ::shutdown(fd.get(), SHUT_WR);
  std::string answer;
  char some[4096];
  for (ssize_t n = 0; (n = ::read(fd.get(), some, sizeof some)) > 0;) {
    answer.append(some, static_cast<size_t>(n));
  }
  return answer.substr(answer.find("\r\n\r\n") + 4);
}

}  // namespace

std::string s3_uri(const std::string& folder, bool direct) {
  return "s3://convoy/" + folder +
         "?scheme=http&region=us-east-1&endpoint_override=" + address(direct);
}

void arm_s3(const S3Fault& fault) {
  ask("/__rule?id=" + encoded(fault.id) + "&match=" + encoded(fault.match) + "&action=" +
      fault.action + "&arg=" + std::to_string(fault.arg) + "&times=" + std::to_string(fault.times) +
      "&skip=" + std::to_string(fault.skip) + "&code=" + fault.code);
}

int fired_s3(const std::string& id) {
  return std::stoi(ask("/__fired?id=" + encoded(id)));
}

int seen_s3(const std::string& match) {
  return std::stoi(ask("/__seen?match=" + encoded(match)));
}

void clear_s3() {
  ask("/__clear");
}

}  // namespace convoy::ckpt
