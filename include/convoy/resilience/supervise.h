#pragma once

#include <convoy/base/status.h>
#include <convoy/rpc/message.h>

#include <cstdint>
#include <string>

namespace convoy::resilience {

// What the process `convoy supervisor` is told.
struct SuperviseOptions {
  int line = -1;  // a descriptor: packets to and from the launcher that started it
  std::string job;
  bool has_common_id = false;  // all machines know the job by this name
  std::string run_dir;         // for control/state.json and incidents.jsonl
  std::string mesh;
  int ranks = 1;  // of the job
  int nodes = 1;
  int spares = 0;         // on each node
  int min_dp = 1;         // data-parallel replicas with which it goes on while machines are missing
  std::string webhook{};  // a URL that is told of incidents and the end; may be empty
  std::string metrics{};  // [ADDRESS:]PORT where /metrics is served; may be empty
  uint16_t port = 0;      // of several nodes: where the other ones' launchers connect
  rpc::ConnectionOptions connection;
  // Control state in etcd, and a supervisor on each node, of which one leads: members, HOST:PORT
  // with commas between them; "https://" in front: with connection's TLS files.
  std::string etcd{};
  int node = 0;            // that it runs on
  std::string launcher{};  // a name of this launcher's that no other one has
};

// Of a process that has led the job, or followed who did, until that changed: to be started again.
inline constexpr int kExitRoleOver = 75;

// Serves the job until the other end of the line has gone. Blocks. Its state is in the run folder,
// or in etcd: a supervisor that dies is simply started again. With etcd it leads, or stands for the
// one that does (see relay()), whichever falls to it, and ends the process with kExitRoleOver when
// that is over. kInvalidArgument, kDataLoss (control state), kAlreadyExists (port).
Status supervise(const SuperviseOptions& options);

// What `convoy supervisor --to` is told.
struct RelayOptions {
  int line = -1;   // a descriptor: packets to and from the launcher that started it
  std::string to;  // HOST:PORT of the supervisor
  rpc::ConnectionOptions connection;
};

// Stands for the supervisor on a machine where it does not run, until the other end of `line` has
// gone: hands packets on, both ways, and connects again whenever the line to it ends. Blocks.
// kInvalidArgument: TLS files.
Status relay(const RelayOptions& options);

}  // namespace convoy::resilience
