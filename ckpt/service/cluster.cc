// What agents need of libconvoy_cluster, once they talk to other machines.
#include "ckpt/service/cluster.h"

#include <convoy/base/library.h>
#include <convoy/ckpt/peers.h>

namespace convoy::ckpt {
namespace {

Result<void*> find_in_library(const char* function) {
  return find_in_cluster_library(function, "checkpoints of jobs on several machines");
}

}  // namespace

Result<std::unique_ptr<Cluster>> load_cluster(const ClusterListen& listen) {
  using Open = Status(const ClusterListen&, std::unique_ptr<Cluster>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found, find_in_library("convoy_ckpt_open_cluster"));
  std::unique_ptr<Cluster> cluster;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Open*>(found)(listen, cluster));
  return cluster;
}

Result<std::unique_ptr<StepSource>> open_in_peers(const PeersPlace& place) {
  using Open = Status(const PeersPlace&, std::unique_ptr<StepSource>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found, find_in_library("convoy_ckpt_open_peers"));
  std::unique_ptr<StepSource> source;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Open*>(found)(place, source));
  return source;
}

}  // namespace convoy::ckpt
