#include "src/resilience/line/line.h"
#include <convoy/base/library.h>

namespace convoy::resilience {
namespace {

constexpr const char* kWhatFor = "recovery of jobs on several machines";

}  // namespace

Result<std::unique_ptr<Lines>> listen_lines(uint16_t port,
                                            const rpc::ConnectionOptions& connection) {
  using Listen = Status(uint16_t, const rpc::ConnectionOptions&, std::unique_ptr<Lines>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found,
                          find_in_cluster_library("convoy_resilience_listen_lines", kWhatFor));
  std::unique_ptr<Lines> lines;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Listen*>(found)(port, connection, lines));
  return lines;
}

Result<std::unique_ptr<Lines>> dial_lines(const std::string& address,
                                          const rpc::ConnectionOptions& connection) {
  using Dial = Status(const std::string&, const rpc::ConnectionOptions&, std::unique_ptr<Lines>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found,
                          find_in_cluster_library("convoy_resilience_dial_lines", kWhatFor));
  std::unique_ptr<Lines> lines;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Dial*>(found)(address, connection, lines));
  return lines;
}

}  // namespace convoy::resilience
