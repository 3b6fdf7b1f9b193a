// Fills a window of a tensor from the pieces that touch it. What is covered already is neither read
// nor copied again, and a damaged chunk is no failure as long as another rank gave the same
// elements.
#include "ckpt/formats/tensor_reader.h"

#include <convoy/base/log.h>

#include <algorithm>
#include <cstring>

namespace convoy::ckpt {

int64_t tensor_elements(const TensorInfo& tensor) {
  int64_t count = 1;
  for (const int64_t size : tensor.shape) {
    if (size == 0) return 0;  // others may be too large to multiply
  }
  for (const int64_t size : tensor.shape) count *= size;
  return count;
}

uint64_t tensor_bytes(const TensorInfo& tensor) {
  return static_cast<uint64_t>(tensor_elements(tensor)) * dtype_bytes(tensor.dtype);
}

void for_each_run(const std::vector<int64_t>& shape, const std::vector<int64_t>& begin,
                  const std::vector<int64_t>& extent, int64_t from, int64_t to,
                  const std::function<void(int64_t, int64_t, int64_t)>& visit) {
  // A row: the innermost dimensions that the box has whole, and the part of the next one.
  size_t d = shape.size();
  int64_t stride = 1;  // elements of the tensor between neighbours in dimension d - 1
  while (d > 0 && extent[d - 1] == shape[d - 1]) stride *= shape[--d];
  int64_t row = stride;
  int64_t base = 0;  // of the row in what is left
  if (d > 0) {
    row *= extent[d - 1];
    base = begin[d - 1] * stride;
    stride *= shape[--d];
  }
  int64_t rows = 1;
  for (size_t i = 0; i < d; ++i) rows *= extent[i];
  const auto offset = [&](int64_t r) {
    int64_t at = base;
    int64_t step = stride;
    for (size_t i = d; i > 0; --i) {
      at += (begin[i - 1] + r % extent[i - 1]) * step;
      r /= extent[i - 1];
      step *= shape[i - 1];
    }
    return at;
  };
  // Offsets ascend: the first row that ends behind `from`.
  int64_t low = 0;
  for (int64_t high = rows; low < high;) {
    const int64_t middle = low + (high - low) / 2;
    if (offset(middle) + row > from) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  for (int64_t r = low; r < rows; ++r) {
    const int64_t at = offset(r);
    if (at >= to) return;
    const int64_t first = std::max(at, from);
    visit(r * row + first - at, first, std::min(at + row, to) - first);
  }
}

// What read() is filling.
struct TensorReader::Window {
  const TensorInfo& info;
  int64_t from;
  int64_t to;
  std::span<std::byte> out;
  std::vector<char> covered;  // an element: whether it is there
  int64_t left;               // not covered
  Status failure;             // the first
};

Result<std::shared_ptr<const Part>> TensorReader::part(const PartRef& ref) {
  for (auto it = parts_.begin(); it != parts_.end(); ++it) {
    if (it->first != &ref) continue;
    parts_.splice(parts_.begin(), parts_, it);
    return it->second;
  }
  Catalog catalog(store_);
  CONVOY_ASSIGN_OR_RETURN(Part loaded, catalog.load_part(ref));
  parts_.emplace_front(&ref, std::make_shared<const Part>(std::move(loaded)));
  parts_bytes_ += ref.bytes;
  while (parts_bytes_ > kPartCacheBytes && parts_.size() > 1) {
    parts_bytes_ -= parts_.back().first->bytes;
    parts_.pop_back();
  }
  return parts_.front().second;
}

// The pieces in all parts that can be read; `lost` says why another one can't.
std::vector<TensorReader::Held> TensorReader::find(const TensorEntry& tensor, Status& lost) {
  std::vector<Held> found;
  for (const PartRun& run : tensor.holders) {
    for (uint32_t i = run.first; i < run.first + run.count; ++i) {
      const PartRef& ref = commit_.parts[i];
      const Result<std::shared_ptr<const Part>> holder = part(ref);
      if (!holder.ok()) {
        if (lost.ok()) lost = holder.status();
        continue;
      }
      for (const Stream& stream : (*holder)->streams) {
        for (const StoredPiece& piece : stream.pieces) {
          if ((*holder)->tensors[piece.tensor] == tensor.info) {
            found.push_back({*holder, &ref, &stream, &piece});
          }
        }
      }
    }
  }
  return found;
}

Result<std::vector<TensorReader::Held>> TensorReader::pieces(const TensorEntry& tensor) {
  Status lost;
  std::vector<Held> found = find(tensor, lost);
  if (!lost.ok()) return lost.with_context("tensor " + tensor.info.name);
  return found;
}

Result<std::span<const std::byte>> TensorReader::chunk(const Held& held, uint64_t i) {
  const ChunkKey key{held.ref, held.stream->rank, i};
  if (!ages_.empty() && ages_.front() == key) return newest_;
  if (const auto found = chunks_.find(key); found != chunks_.end()) {
    ages_.splice(ages_.begin(), ages_, found->second.age);
    return newest_ = found->second.bytes;
  }
  if (const auto bad = bad_.find(key); bad != bad_.end()) return bad->second;
  Result<std::vector<std::byte>> raw = read_chunk(store_, *held.part, *held.stream, i);
  if (!raw.ok()) return bad_.emplace(key, raw.status()).first->second;
  chunks_bytes_ += raw->size();
  ages_.push_front(key);
  const auto added = chunks_.emplace(key, Cached{std::move(raw).value(), ages_.begin()}).first;
  while (chunks_bytes_ > kChunkCacheBytes && ages_.size() > 1) {
    const auto oldest = chunks_.find(ages_.back());
    chunks_bytes_ -= oldest->second.bytes.size();
    chunks_.erase(oldest);
    ages_.pop_back();
  }
  return newest_ = added->second.bytes;
}

// Bytes [at, at + out.size()) of the stream.
Status TensorReader::copy(const Held& held, uint64_t at, std::span<std::byte> out) {
  const uint64_t chunk_bytes = held.stream->chunk_bytes;
  while (!out.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const auto raw, chunk(held, at / chunk_bytes));
    const uint64_t skip = at % chunk_bytes;
    const size_t n = std::min<size_t>(out.size(), raw.size() - skip);
    std::memcpy(out.data(), raw.data() + skip, n);
    out = out.subspan(n);
    at += n;
  }
  return ok_status();
}

void TensorReader::add_piece(const Held& held, Window& window) {
  const uint64_t element = dtype_bytes(window.info.dtype);
  for_each_run(window.info.shape, held.piece->begin, held.piece->extent, window.from, window.to,
               [&](int64_t in_piece, int64_t in_tensor, int64_t count) {
                 const auto first = window.covered.begin() + (in_tensor - window.from);
                 const int64_t had = std::count(first, first + count, 1);
                 if (had == count) return;
                 const auto out =
                     window.out.subspan((in_tensor - window.from) * element, count * element);
                 const Status status = copy(held, held.piece->offset + in_piece * element, out);
                 if (!status.ok()) {
                   // What the copy has spoilt must come from others, too.
                   std::fill(first, first + count, 0);
                   window.left += had;
                   if (window.failure.ok()) window.failure = status;
                   return;
                 }
                 std::fill(first, first + count, 1);
                 window.left -= count - had;
               });
}

// Finds the pieces of `tensor`, unless it is the same as before.
void TensorReader::use(const TensorEntry& tensor) {
  if (tensor_ == &tensor) return;
  held_.clear();  // before the next ones are loaded
  lost_part_ = ok_status();
  held_ = find(tensor, lost_part_);
  tensor_ = &tensor;
}

Status TensorReader::read(const TensorEntry& tensor, int64_t first, std::span<std::byte> out) {
  use(tensor);
  const auto count = static_cast<int64_t>(out.size() / dtype_bytes(tensor.info.dtype));
  Window window{tensor.info, first, first + count, out, std::vector<char>(count), count, {}};
  // Twice if a chunk was bad: a piece that was passed over as covered may have to step in.
  for (int round = 0; round < 2 && window.left > 0; ++round) {
    if (round == 1 && window.failure.ok()) break;
    for (const Held& held : held_) {
      if (window.left == 0) break;
      add_piece(held, window);
    }
  }
  if (window.left == 0) {
    if (!window.failure.ok()) {
      CONVOY_LOG(Warn) << "tensor " << tensor.info.name
                       << " was read from another rank's copy: " << window.failure.message();
    }
    return ok_status();
  }
  const std::string context = "tensor " + tensor.info.name;
  if (!window.failure.ok()) return window.failure.with_context(context);
  if (!lost_part_.ok()) return lost_part_.with_context(context);
  return {Code::kDataLoss, context + " of step " + std::to_string(commit_.step) + " in " +
                               store_.name() + " is not whole: no rank gave " +
                               std::to_string(window.left) + " of its elements from " +
                               std::to_string(first) + " on."};
}

}  // namespace convoy::ckpt
