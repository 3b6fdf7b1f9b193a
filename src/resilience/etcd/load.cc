#include "src/resilience/etcd/etcd.h"
#include <convoy/base/library.h>

namespace convoy::resilience {

Result<std::unique_ptr<Etcd>> open_etcd(const std::string& members, const rpc::TlsFiles& tls) {
  using Open = Status(const std::string&, const rpc::TlsFiles&, std::unique_ptr<Etcd>&);
  CONVOY_ASSIGN_OR_RETURN(void* const found, find_in_cluster_library("convoy_resilience_open_etcd",
                                                                     "control state in etcd"));
  std::unique_ptr<Etcd> etcd;
  CONVOY_RETURN_IF_ERROR(reinterpret_cast<Open*>(found)(members, tls, etcd));
  return etcd;
}

}  // namespace convoy::resilience
