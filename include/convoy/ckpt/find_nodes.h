#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/load_together.h>

namespace convoy::ckpt {

// Tells the ranks of a job which node each is on: ranks whose agents have the same address share
// one. Fills node, nodes, local_size and coordinator of `options`, whose agent, rank and world_size
// are set; nodes are numbered by their first ranks, so rank 0 is on node 0. Collective: all ranks
// of `exchange` call it with their own options. Errors are those of agent_address(), the same on
// all ranks.
Status find_nodes(Exchange& exchange, ClientOptions& options);

}  // namespace convoy::ckpt
