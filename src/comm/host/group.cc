// How a group comes to be: every rank publishes one record and reads the others'. Ranks that all
// share this machine's memory get a ShmGroup, others a group of TCP links.
#include "src/comm/host/link_group.h"
#include "src/comm/host/node_impl.h"
#include "src/comm/host/shm_group.h"
#include <convoy/base/check.h>
#include <convoy/comm/host/group.h>

#include <algorithm>
#include <unistd.h>

namespace convoy::host {
namespace {

// A rank that must stop because another has none to wait for still asks for the others' records so
// long, to name all that are missing.
constexpr Nanos kLookAround = std::chrono::milliseconds(1);

Result<std::vector<Endpoint>> read_endpoints(Store& store, const Endpoint& own, int rank, int size,
                                             const GroupOptions& options) {
  const Deadline deadline = Deadline::after(options.join_timeout);
  std::vector<Endpoint> endpoints(size);
  std::string missing, present;
  for (int r = 0; r < size; ++r) {
    const auto label = std::to_string(options.global_ranks.empty() ? r : options.global_ranks[r]);
    if (r == rank) {
      endpoints[r] = own;
      present += (present.empty() ? "" : ",") + label;
      continue;
    }
    auto text = store.get(options.name + "/" + std::to_string(r),
                          missing.empty() ? deadline : Deadline::after(kLookAround));
    if (!text.ok()) {
      if (text.status().code() != Code::kDeadlineExceeded) {
        return text.status().with_context("reading the record of rank " + label + " of group " +
                                          options.name);
      }
      missing += (missing.empty() ? "" : ",") + label;
      continue;
    }
    CONVOY_ASSIGN_OR_RETURN(endpoints[r], Endpoint::decode(*text));
    present += (present.empty() ? "" : ",") + label;
  }
  if (missing.empty()) return endpoints;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options.join_timeout);
  const bool one = missing.find(',') == std::string::npos;
  return Status(Code::kDeadlineExceeded,
                (one ? "rank " : "ranks ") + missing + (one ? " has" : " have") +
                    " not joined group " + options.name + " after " +
                    std::to_string(seconds.count()) + " s; " + present +
                    (present.find(',') == std::string::npos ? " has" : " have"));
}

Result<std::unique_ptr<Group>> make_shm_group(std::shared_ptr<NodeImpl> node,
                                              const std::vector<Endpoint>& endpoints, int rank,
                                              const GroupOptions& options) {
  const Deadline deadline = Deadline::after(options.join_timeout);
  std::vector<std::shared_ptr<Peer>> peers;
  for (size_t r = 0; r < endpoints.size(); ++r) {
    auto peer = node->connect(endpoints[r], deadline);
    if (!peer.ok()) {
      return peer.status().with_context("joining rank " + std::to_string(r) + " of group " +
                                        options.name);
    }
    peers.push_back(*peer);
  }
  const Endpoint& first = endpoints[0];
  if (first.area_offset > first.heap_bytes - Area::bytes(static_cast<int>(endpoints.size()))) {
    return Status(Code::kDataLoss,
                  "the control area of group " + options.name + " lies outside of rank 0's heap");
  }
  auto* area = reinterpret_cast<Area*>(peers[0]->heap->base() + first.area_offset);
  auto core = std::make_shared<ShmCore>(std::move(node), std::move(peers), area, rank, options);
  // A rank that goes on, sends a message and ends must not be gone before the others have mapped
  // it.
  ShmCore::Operation creation;
  creation.sequence = 0;
  creation.first_phase = 1;
  creation.deadline = deadline;
  CONVOY_RETURN_IF_ERROR(core->barrier(creation));
  return std::unique_ptr<Group>(std::make_unique<ShmGroup>(std::move(core)));
}

}  // namespace

Result<std::unique_ptr<Group>> Group::create(std::shared_ptr<Node> node, Store& store, int rank,
                                             int size, const GroupOptions& options) {
  if (rank < 0 || rank >= size ||
      (!options.global_ranks.empty() && options.global_ranks.size() != static_cast<size_t>(size))) {
    return Status(Code::kInvalidArgument,
                  "group " + options.name + ": rank " + std::to_string(rank) + " of " +
                      std::to_string(size) + " ranks (" +
                      std::to_string(options.global_ranks.size()) + " named) makes no sense");
  }
  auto own_node = std::dynamic_pointer_cast<NodeImpl>(std::move(node));
  CONVOY_CHECK(own_node != nullptr, "a Group needs a Node made by Node::create");
  Endpoint own;
  own.host = own_node->host_id();
  own.socket = own_node->socket_name();
  own.pid = getpid();
  own.tcp_streams = own_node->tcp_streams();
  own.heap_bytes = own_node->own_heap().mapping()->bytes();
  void* area = nullptr;
  if (rank == 0) {
    area = own_node->heap().allocate(Area::bytes(size));
    if (area == nullptr) {
      return Status(Code::kResourceExhausted,
                    "no memory in the shared heap for the control area of group " + options.name);
    }
    Area::init(area, size);
    own.area_offset = own_node->own_heap().offset_of(area);
  }
  CONVOY_RETURN_IF_ERROR(store.set(options.name + "/" + std::to_string(rank), own.encode())
                             .with_context("publishing a rank of group " + options.name));
  CONVOY_ASSIGN_OR_RETURN(const auto endpoints, read_endpoints(store, own, rank, size, options));
  std::vector<std::string> hosts;
  int streams = own.tcp_streams;
  for (const Endpoint& endpoint : endpoints) {
    hosts.push_back(endpoint.host);
    streams = std::min(streams, endpoint.tcp_streams);
  }
  if (std::all_of(hosts.begin(), hosts.end(), [&](const auto& h) { return h == own.host; })) {
    return make_shm_group(std::move(own_node), endpoints, rank, options);
  }
  // Nobody has looked at it. After a failure above somebody may, so there it stays.
  if (area != nullptr) own_node->heap().deallocate(area);
  TcpEndpoint& links = own_node->links();
  return make_link_group(std::move(own_node), links, store, rank, size, hosts, streams, options);
}

}  // namespace convoy::host
