#include "ckpt/formats/chunk_writer.h"
#include <convoy/ckpt/write_state.h>

#include <utility>

namespace convoy::ckpt {

Result<PartRef> write_state(Store& store, Catalog& catalog, uint64_t step, uint32_t node,
                            uint64_t generation, const State& state) {
  CONVOY_ASSIGN_OR_RETURN(StreamLayout layout, lay_out(state));
  Part part{step, node, generation, std::move(layout.tensors), {}, {}};
  Stream& stream = part.streams.emplace_back();
  stream.rank = node;
  stream.pieces = std::move(layout.stream.pieces);
  ChunkWriter writer(store, catalog, part);
  for (const SourceRun& run : layout.runs) {
    for (size_t i = 0; i < run.count; ++i) {
      const std::byte* at = run.data + static_cast<ptrdiff_t>(i) * run.stride;
      CONVOY_RETURN_IF_ERROR(writer.append({at, run.bytes}));
    }
  }
  CONVOY_RETURN_IF_ERROR(writer.finish());
  return catalog.write_part(part);
}

}  // namespace convoy::ckpt
