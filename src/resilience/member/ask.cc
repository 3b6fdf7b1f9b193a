#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/packet.h>
#include <convoy/resilience/ask.h>

#include <filesystem>
#include <fstream>
#include <poll.h>

namespace convoy::resilience {
namespace {

constexpr int kAnswerMs = 5000;

// A folder that several machines share has the sockets of all their launchers; one of them is here.
Result<UniqueFd> connect_launcher(const std::string& run_dir) {
  bool is_known = false;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/control", ignored)) {
    if (!entry.path().filename().string().starts_with("socket")) continue;
    std::ifstream file(entry.path());
    std::string name;
    if (!std::getline(file, name)) continue;
    is_known = true;
    auto socket = connect_packets(name);
    if (socket.ok()) return socket;
  }
  if (is_known) {
    return Status(Code::kUnavailable,
                  "no launcher of the job in " + run_dir + " runs on this machine (any more)");
  }
  return Status(Code::kNotFound, run_dir + " is no run folder of `convoy run`");
}

}  // namespace

Result<std::string> ask(const std::string& run_dir, const std::string& what) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd socket, connect_launcher(run_dir));
  proto::FromWorker message;
  message.mutable_request()->set_what(what);
  CONVOY_RETURN_IF_ERROR(send_packet(socket.get(), message.SerializeAsString()));
  pollfd ready{socket.get(), POLLIN, 0};
  if (::poll(&ready, 1, kAnswerMs) != 1) {
    return Status(Code::kDeadlineExceeded, "the job's supervisor does not answer");
  }
  CONVOY_ASSIGN_OR_RETURN(Packet packet, receive_packet(socket.get()));
  if (packet.ended) {
    return Status(Code::kUnavailable,
                  "nobody leads the job in " + run_dir +
                      ": its program can't go on without a rank, or has not begun yet");
  }
  return std::move(packet.bytes);
}

}  // namespace convoy::resilience
