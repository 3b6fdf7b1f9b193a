#include <convoy/ckpt/find_nodes.h>
#include <convoy/ckpt/load_nearest.h>

#include <algorithm>
#include <vector>

namespace convoy::ckpt {

Status find_nodes(Exchange& exchange, ClientOptions& options) {
  const Result<std::string> mine = agent_address(options.agent, options.timeout);
  CONVOY_RETURN_IF_ERROR(agree(exchange, mine.status()));
  const auto* data = reinterpret_cast<const std::byte*>(mine->data());
  CONVOY_ASSIGN_OR_RETURN(const auto all, exchange.all_gather({data, data + mine->size()}));
  std::vector<Exchange::Bytes> nodes;
  for (const Exchange::Bytes& address : all) {
    if (std::ranges::find(nodes, address) == nodes.end()) nodes.push_back(address);
  }
  const Exchange::Bytes& own = all[static_cast<size_t>(exchange.rank())];
  options.nodes = static_cast<uint32_t>(nodes.size());
  options.node = static_cast<uint32_t>(std::ranges::find(nodes, own) - nodes.begin());
  options.local_size = static_cast<uint32_t>(std::ranges::count(all, own));
  options.coordinator.assign(reinterpret_cast<const char*>(all[0].data()), all[0].size());
  return ok_status();
}

}  // namespace convoy::ckpt
