#pragma once

#include "src/comm/host/tcp_endpoint.h"
#include <convoy/comm/host/group.h>

#include <memory>
#include <string>
#include <vector>

namespace convoy::host {

// A Group whose ranks do not all share one machine's memory: every pair of ranks is joined by
// connections of its own, TCP ones, or unix sockets where the two share a machine. Group::create
// calls it when the ranks' host ids (node.h) differ.
//
// `hosts[r]` is rank r's host id; `streams` is the same on all ranks: of the connections of each
// pair so many carry collectives, and as many messages. `endpoint` is the node's own and lives as
// long as `node`, which the group keeps. The ranks tell each other their addresses and secrets
// through `store`, under keys that begin with "<options.name>/link/"; all of them must call this.
// Blocks until every pair is connected or options.join_timeout has passed (the error names the
// ranks that are missing).
Result<std::unique_ptr<Group>> make_link_group(std::shared_ptr<Node> node, TcpEndpoint& endpoint,
                                               Store& store, int rank, int size,
                                               const std::vector<std::string>& hosts, int streams,
                                               const GroupOptions& options);

}  // namespace convoy::host
