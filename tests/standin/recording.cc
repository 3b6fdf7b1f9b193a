#include "tests/standin/recording.h"

#include <fstream>
#include <sstream>

namespace convoy::standin::nccl {
namespace {

const char* type_name(int type) {
  static const char* const names[] = {"Group",     "Coll",      "P2p",      "ProxyOp",
                                      "ProxyStep", "ProxyCtrl", "KernelCh", "NetPlugin",
                                      "GroupApi",  "CollApi",   "P2pApi",   "KernelLaunch"};
  for (int bit = 0; bit < 12; ++bit) {
    if (type == 1 << bit) return names[bit];
  }
  return "?";
}

}  // namespace

const std::string& RecordedCall::operator[](const std::string& name) const {
  static const std::string none;
  const auto found = fields.find(name);
  return found == fields.end() ? none : found->second;
}

Recording::Recording(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::map<uint64_t, int> types;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    RecordedCall call;
    words >> call.thread >> call.call;
    std::string word;
    while (words >> word) {
      const size_t at = word.find('=');
      call.fields[word.substr(0, at)] = word.substr(at + 1);
    }
    const auto number = [&](const char* name) {
      return call[name].empty() ? 0 : std::stoull(call[name]);
    };
    call.handle = number("handle");
    call.parent = number("parent");
    call.state = static_cast<int>(number("state"));
    if (call.call == "start") types[call.handle] = static_cast<int>(number("type"));
    call.type = types.count(call.handle) != 0 ? types[call.handle] : 0;
    calls_.push_back(std::move(call));
  }
}

std::vector<RecordedCall> Recording::starts(int type) const {
  std::vector<RecordedCall> found;
  for (const RecordedCall& call : calls_) {
    if (call.call == "start" && call.type == type) found.push_back(call);
  }
  return found;
}

std::string Recording::life(uint64_t handle) const {
  std::string text;
  for (const RecordedCall& call : calls_) {
    if (call.handle != handle) continue;
    text +=
        (text.empty() ? "" : " ") + (call.call == "state" ? std::to_string(call.state) : call.call);
  }
  return text;
}

std::string Recording::order(int types) const {
  std::string text;
  for (const RecordedCall& call : calls_) {
    if ((call.type & types) == 0) continue;
    text += text.empty() ? "" : " ";
    text += type_name(call.type);
    text += call.call == "start"  ? "<"
            : call.call == "stop" ? ">"
                                  : ":" + std::to_string(call.state);
  }
  return text;
}

}  // namespace convoy::standin::nccl
