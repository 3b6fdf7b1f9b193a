#include "src/runtime/store_server.h"

#include "src/runtime/folder_store.h"
#include <convoy/base/socket.h>

#include <arpa/inet.h>

namespace convoy::runtime {
namespace {

bool is_ipv4(const std::string& host) {
  in_addr unused{};
  return ::inet_pton(AF_INET, host.c_str(), &unused) == 1;
}

}  // namespace

bool meets_in_folder(const launch::Environment& e) {
  return !e.control.empty() && !e.run_dir.empty() && e.local_world_size == e.world_size;
}

c10::intrusive_ptr<c10d::Store> folder_store(const launch::Environment& environment,
                                             int generation) {
  auto store = c10::make_intrusive<FolderStore>(environment.run_dir + "/control/store." +
                                                std::to_string(generation));
  store->setTimeout(std::chrono::duration_cast<std::chrono::milliseconds>(environment.timeout));
  return store;
}

std::string own_name(const launch::Environment& e) {
  return is_ipv4(e.master_addr) ? "127.0.0.1" : "localhost";
}

c10::intrusive_ptr<c10d::TCPStore> serve_store(const std::string& host,
                                               c10d::TCPStoreOptions options) {
  options.isServer = true;
  if (is_ipv4(host)) {
    // Where that fails c10d tries its own way, and says what is wrong.
    auto socket = listen_tcp(options.port);
    const auto port = socket.ok() ? bound_port(socket->get()) : Result<uint16_t>(socket.status());
    if (port.ok()) {
      options.port = *port;
      options.masterListenFd = socket->release();
    }
  }
  return c10::make_intrusive<c10d::TCPStore>(host, options);
}

c10::intrusive_ptr<c10d::TCPStore> serve_next_store(const launch::Environment& environment) {
  c10d::TCPStoreOptions options;
  options.port = 0;  // any free one
  options.waitWorkers = false;
  return serve_store(own_name(environment), options);
}

c10::intrusive_ptr<c10d::Store> reach_store(const launch::Environment& environment, int generation,
                                            const std::string& host, uint16_t port) {
  if (meets_in_folder(environment)) return folder_store(environment, generation);
  c10d::TCPStoreOptions options;
  options.port = port;
  options.timeout = std::chrono::duration_cast<std::chrono::milliseconds>(environment.timeout);
  return c10::make_intrusive<c10d::TCPStore>(host, options);
}

}  // namespace convoy::runtime
