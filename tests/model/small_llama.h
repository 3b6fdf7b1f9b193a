#pragma once

#include <convoy/model/llama.h>

#include <ATen/ATen.h>

#include <algorithm>

namespace convoy::model {

// A model of awkward sizes that nothing divides evenly: 6 heads over 2 shared kv heads, ffn 37,
// vocabulary 29, sequence 19.
inline LlamaConfig small_config(int layers) {
  LlamaConfig c;
  c.layers = layers;
  c.hidden = 24;
  c.heads = 6;
  c.kv_heads = 2;
  c.ffn = 37;
  c.vocab = 29;
  c.seq = 19;
  c.init_std = 0.3;  // large, so that nothing is nearly linear
  return c;
}

// `samples` sequences of random tokens, the same in every process; one target is ignored.
inline MicroBatch make_batch(const LlamaConfig& c, int64_t samples) {
  at::manual_seed(7);
  MicroBatch batch;
  batch.targets = at::randint(c.vocab, {samples, c.seq}, at::kLong);
  batch.targets.select(0, 0).select(0, c.seq - 1).fill_(-1);
  batch.tokens = at::randint(c.vocab, {samples, c.seq}, at::kLong);
  return batch;
}

// The largest difference, as a part of the largest value of `want`.
inline double difference(const at::Tensor& got, const at::Tensor& want) {
  return (got.to(at::kDouble) - want.to(at::kDouble)).abs().max().item<double>() /
         std::max(1e-30, want.abs().max().item<double>());
}

}  // namespace convoy::model
