#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/packet.h>
#include <convoy/resilience/ask.h>

#include <fstream>
#include <poll.h>

namespace convoy::resilience {
namespace {

constexpr int kAnswerMs = 5000;

}  // namespace

Result<std::string> ask(const std::string& run_dir, const std::string& what) {
  std::ifstream file(run_dir + "/control/socket");
  std::string name;
  if (!std::getline(file, name)) {
    return Status(Code::kNotFound, run_dir + " is no run folder of `convoy run`");
  }
  auto socket = connect_packets(name);
  if (!socket.ok()) return Status(Code::kUnavailable, "no job runs in " + run_dir + " any more");
  proto::FromWorker message;
  message.mutable_request()->set_what(what);
  CONVOY_RETURN_IF_ERROR(send_packet(socket->get(), message.SerializeAsString()));
  pollfd ready{socket->get(), POLLIN, 0};
  if (::poll(&ready, 1, kAnswerMs) != 1) {
    return Status(Code::kDeadlineExceeded, "the job's supervisor does not answer");
  }
  CONVOY_ASSIGN_OR_RETURN(Packet packet, receive_packet(socket->get()));
  if (packet.ended) {
    return Status(Code::kUnavailable,
                  "nobody leads the job in " + run_dir +
                      ": its program can't go on without a rank, or has not begun yet");
  }
  return std::move(packet.bytes);
}

}  // namespace convoy::resilience
