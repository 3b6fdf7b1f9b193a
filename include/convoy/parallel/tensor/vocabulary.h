#pragma once

#include <convoy/parallel/tensor/linear.h>
#include <convoy/parallel/tensor/parameter.h>

#include <ATen/core/Tensor.h>

// The two ends of a language model with the vocabulary cut over the tensor group: rows
// even_chunk(vocab, ranks, rank) of the embedding on each rank, so vocabularies need not be
// divisible, and logits are never gathered.
namespace convoy::parallel {

// tokens: int64 [batch, seq], the same on all ranks -> [seq, batch, hidden], or this rank's part of
// the sequence (region.sequence_sizes). Throws if a token is outside [0, vocab).
at::Tensor vocab_parallel_embedding(const at::Tensor& tokens, const ParameterPtr& weight,
                                    const TensorRegion& region);

// The scalar `scale` × Σ over tokens of −log softmax(logits)[target]. logits: [seq, batch, local
// vocabulary], CONSUMED: its memory becomes the gradient. targets: int64 [batch, seq]; negative
// targets don't count. One collective (an all-gather of 3 numbers per token and rank) in forward,
// none in backward. float64 for float64 logits, else float32; equal on all ranks.
at::Tensor vocab_parallel_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                        int64_t vocab, double scale, const comm::Group& group);

}  // namespace convoy::parallel
