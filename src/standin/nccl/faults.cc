// The socket's thread serves one connection at a time: commands are short, and only tests and
// people send them.
#include "src/standin/nccl/faults.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <sstream>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr int kConfigExit = 64;
constexpr size_t kLineMax = 4096;
constexpr int kRemoteError = 6;

const std::map<std::string, Fault::Kind>& kinds() {
  static const std::map<std::string, Fault::Kind> all = {{"hang", Fault::Kind::hang},
                                                         {"fail", Fault::Kind::fail},
                                                         {"slow", Fault::Kind::slow},
                                                         {"die", Fault::Kind::die},
                                                         {"proxy_delay", Fault::Kind::proxy_delay}};
  return all;
}

const std::map<std::string, int>& results() {
  static const std::map<std::string, int> all = {{"cuda_error", 1},
                                                 {"system_error", 2},
                                                 {"internal_error", 3},
                                                 {"remote_error", kRemoteError},
                                                 {"timeout", 8}};
  return all;
}

template <typename T>
std::string names(const std::map<std::string, T>& all) {
  std::string text;
  for (const auto& [name, value] : all) text += (text.empty() ? "" : ", ") + name;
  return text;
}

template <typename T>
bool look_up(const std::map<std::string, T>& all, const std::string& name, T& value) {
  const auto found = all.find(name);
  if (found == all.end()) return false;
  value = found->second;
  return true;
}

bool parse_number(const std::string& text, uint64_t& value) {
  if (text.empty() || text.size() > 18) return false;
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return false;
  }
  value = std::stoull(text);
  return true;
}

bool parse_duration(const std::string& text, std::chrono::nanoseconds& value) {
  static const std::map<std::string, uint64_t> units = {
      {"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};
  const size_t digits = text.find_first_not_of("0123456789");
  uint64_t number = 0, unit = 0;
  if (digits == std::string::npos || digits > 9 || !parse_number(text.substr(0, digits), number) ||
      !look_up(units, text.substr(digits), unit)) {
    return false;
  }
  value = std::chrono::nanoseconds(number * unit);
  return true;
}

bool parse_word(const std::string& word, FaultRule& rule, std::string& why) {
  const size_t at = word.find('=');
  const std::string key = word.substr(0, at);
  const std::string value = at == std::string::npos ? "" : word.substr(at + 1);
  const auto wanted = [&](const std::string& what) {
    why = "'" + word + "': wanted " + key + "=" + what;
    return false;
  };
  uint64_t number = 0;
  if (key == "do") {
    return look_up(kinds(), value, rule.fault.kind) || wanted("one of " + names(kinds()));
  }
  if (key == "result") {
    return look_up(results(), value, rule.fault.result) || wanted("one of " + names(results()));
  }
  if (key == "by") {
    return parse_duration(value, rule.fault.by) || wanted("a time like 50ms");
  }
  if (key == "rank") {
    if (!parse_number(value, number) || number > 1'000'000) return wanted("a rank");
    rule.rank = static_cast<int>(number);
    return true;
  }
  if (key == "op") {
    rule.and_later = !value.empty() && value.back() == '+';
    const std::string digits = rule.and_later ? value.substr(0, value.size() - 1) : value;
    return (parse_number(digits, rule.op) && rule.op > 0) ||
           wanted("a number from 1 on, or N+ for all from there on");
  }
  if (key != "comm" && key != "kind") {
    why = "'" + word + "': wanted do=, rank=, op=, comm=, kind=, result= or by=";
    return false;
  }
  if (value.empty()) return wanted("a name");
  (key == "comm" ? rule.comm : rule.kind) = value;
  return true;
}

bool parse_rule(const std::string& text, FaultRule& rule, std::string& why) {
  std::istringstream words(text);
  std::string word;
  while (words >> word) {
    if (!parse_word(word, rule, why)) return false;
    rule.text += (rule.text.empty() ? "" : " ") + word;
  }
  const Fault::Kind kind = rule.fault.kind;
  const bool needs_time = kind == Fault::Kind::slow || kind == Fault::Kind::proxy_delay;
  if (kind == Fault::Kind::none) {
    why = "'" + rule.text + "': do= is missing; one of " + names(kinds());
  } else if (needs_time != (rule.fault.by.count() > 0)) {
    why = "'" + rule.text + "': by= belongs to do=slow and do=proxy_delay, and they need it";
  } else if (rule.fault.result != 0 && kind != Fault::Kind::fail) {
    why = "'" + rule.text + "': result= belongs to do=fail";
  }
  if (kind == Fault::Kind::fail && rule.fault.result == 0) rule.fault.result = kRemoteError;
  return why.empty();
}

bool fits(const FaultRule& rule, const std::string& comm, int rank, uint64_t op, const char* kind) {
  const bool at_op = rule.op == 0 || rule.op == op || (rule.and_later && op > rule.op);
  return at_op && (rule.rank < 0 || rule.rank == rank) &&
         (rule.comm.empty() || rule.comm == comm) && (rule.kind.empty() || rule.kind == kind);
}

// Everything of it, though the peer may have gone.
void send_all(int fd, const std::string& text) {
  size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t n = ::send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

}  // namespace

bool parse_faults(const std::string& text, std::vector<FaultRule>& rules, std::string& why) {
  std::istringstream parts(text);
  std::string part;
  why.clear();
  while (std::getline(parts, part, ';')) {
    if (part.find_first_not_of(" \t\n") == std::string::npos) continue;
    FaultRule rule;
    if (!parse_rule(part, rule, why)) return false;
    rules.push_back(std::move(rule));
  }
  return true;
}

Faults& Faults::get() {
  static auto* faults = [] {
    auto* made = new Faults;  // streams' threads may outlive static objects
    std::string why;
    const char* text = std::getenv("CONVOY_STANDIN_NCCL_FAULT");
    if (text != nullptr && !made->add(text, why)) {
      std::fprintf(stderr, "convoy stand-in: CONVOY_STANDIN_NCCL_FAULT: %s\n", why.c_str());
      std::exit(kConfigExit);
    }
    const char* where = std::getenv("CONVOY_STANDIN_CONTROL");
    if (where == nullptr || *where == 0) return made;
    const std::string name = std::to_string(::getpid());
    const std::string path = *where == '@' ? where + ("." + name) : where + ("/" + name + ".sock");
    if (!made->listen(path, why)) {
      std::fprintf(stderr, "convoy stand-in: CONVOY_STANDIN_CONTROL is '%s': %s\n", where,
                   why.c_str());
      std::exit(kConfigExit);
    }
    return made;
  }();
  return *faults;
}

Faults::~Faults() {
  if (thread_.joinable()) {
    (void)!::write(stop_pipe_[1], "x", 1);
    thread_.join();
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  for (const int fd : stop_pipe_) {
    if (fd >= 0) ::close(fd);
  }
}

Fault Faults::at(Where where, const std::string& comm, int rank, uint64_t op, const char* kind) {
  if (!any_.load(std::memory_order_relaxed)) [[likely]]
    return {};
  const std::lock_guard lock(mutex_);
  for (FaultRule& rule : rules_) {
    const bool is_here = (rule.fault.kind == Fault::Kind::proxy_delay) == (where == Where::launch);
    if (!is_here || !fits(rule, comm, rank, op, kind)) continue;
    ++rule.struck;
    std::fprintf(stderr,
                 "convoy stand-in: fault '%s' strikes rank %d of communicator '%s' in %s, its "
                 "operation #%llu\n",
                 rule.text.c_str(), rank, comm.c_str(), kind, static_cast<unsigned long long>(op));
    return rule.fault;
  }
  return {};
}

bool Faults::add(const std::string& text, std::string& why) {
  std::vector<FaultRule> rules;
  if (!parse_faults(text, rules, why)) return false;
  const std::lock_guard lock(mutex_);
  for (FaultRule& rule : rules) rules_.push_back(std::move(rule));
  any_ = !rules_.empty();
  return true;
}

void Faults::clear() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
  any_ = false;
}

int Faults::add_status(std::function<std::string()> lines) {
  const std::lock_guard lock(status_mutex_);
  status_[next_status_] = std::move(lines);
  return next_status_++;
}

void Faults::remove_status(int id) {
  const std::lock_guard lock(status_mutex_);
  status_.erase(id);
}

std::string Faults::answer(const std::string& line) {
  std::string text, why;
  if (line == "status") {
    const std::lock_guard lock(status_mutex_);
    text = "process " + std::to_string(::getpid()) + ", " + std::to_string(status_.size()) +
           " communicators\n";
    for (const auto& [id, lines] : status_) text += lines();
  } else if (line == "faults") {
    const std::lock_guard lock(mutex_);
    for (const FaultRule& rule : rules_) {
      text += rule.text + ": struck " + std::to_string(rule.struck) + " times\n";
    }
  } else if (line == "clear") {
    clear();
    text = "ok\n";
  } else if (line.rfind("fault ", 0) == 0) {
    text = add(line.substr(6), why) ? "ok\n" : "error: " + why + "\n";
  } else {
    text = "error: wanted status, faults, fault TEXT or clear\n";
  }
  return text + "\n";
}

// --- The socket.

bool Faults::listen(const std::string& where, std::string& why) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (where.size() >= sizeof address.sun_path) {
    why = "the socket's name '" + where + "' is longer than " +
          std::to_string(sizeof address.sun_path - 1) + " characters";
    return false;
  }
  std::memcpy(address.sun_path, where.data(), where.size());
  const bool is_abstract = where.front() == '@';
  if (is_abstract) address.sun_path[0] = 0;
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + where.size());
  if (!is_abstract) ::unlink(where.c_str());  // of an earlier process with this number
  if (listener < 0 || ::bind(listener, reinterpret_cast<sockaddr*>(&address), bytes) != 0 ||
      ::listen(listener, 16) != 0 || ::pipe(stop_pipe_) != 0) {
    why = "the socket '" + where + "' can't be made: " + std::strerror(errno);
    if (listener >= 0) ::close(listener);
    return false;
  }
  if (!is_abstract) path_ = where;
  thread_ = std::thread([this, listener] { serve(listener); });
  return true;
}

void Faults::serve(int listener) {
  int peer = -1;
  std::string line;
  for (;;) {
    pollfd watched[2] = {{stop_pipe_[0], POLLIN, 0}, {peer >= 0 ? peer : listener, POLLIN, 0}};
    if (::poll(watched, 2, -1) < 0 && errno != EINTR) break;
    if (watched[0].revents != 0) break;
    if (watched[1].revents == 0) continue;
    if (peer < 0) {
      peer = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      continue;
    }
    char text[512];
    const ssize_t n = ::recv(peer, text, sizeof text, 0);
    for (ssize_t i = 0; i < n; ++i) {
      if (text[i] != '\n') {
        line += text[i];
        continue;
      }
      send_all(peer, answer(line));
      line.clear();
    }
    if (n > 0 && line.size() <= kLineMax) continue;
    ::close(peer);
    peer = -1;
    line.clear();
  }
  if (peer >= 0) ::close(peer);
  ::close(listener);
}

}  // namespace convoy::standin::nccl
