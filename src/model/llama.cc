// The Llama model of one pipeline stage: which parameters exist, and in which order the layers of
// parallel/tensor are called. No mathematics here, and no case distinction between one rank and
// many.
#include <convoy/model/llama.h>
#include <convoy/parallel/sequence/sequence.h>
#include <convoy/parallel/tensor/vocabulary.h>

#include <cmath>

namespace convoy::model {

using parallel::Parameter;
using parallel::ParameterPtr;
using parallel::Purpose;
using parallel::Recomputable;

int64_t LlamaConfig::parameter_count() const {
  const int64_t layer = hidden * (heads + 2 * kv_heads) * head_dim() + hidden * hidden +
                        3 * hidden * ffn + 2 * hidden;
  return layers * layer + hidden + vocab * hidden * (tied ? 1 : 2);
}

Status check(const LlamaConfig& c, int tp, bool sequence_parallel) {
  const auto wrong = [](std::string text) { return Status(Code::kInvalidArgument, text); };
  if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.kv_heads < 1 || c.ffn < 1 || c.vocab < 1 ||
      c.seq < 1)
    return wrong("the model's sizes must all be at least 1");
  if (c.hidden % c.heads != 0 || c.head_dim() % 2 != 0)
    return wrong("hidden size " + std::to_string(c.hidden) + " over " + std::to_string(c.heads) +
                 " heads must give an even head size (rotary embedding turns pairs)");
  if (c.heads % c.kv_heads != 0)
    return wrong(std::to_string(c.heads) + " query heads can't share " +
                 std::to_string(c.kv_heads) + " key/value heads evenly; choose a divisor");
  if (c.heads < tp)
    return wrong(std::to_string(c.heads) + " attention heads can't be cut over " +
                 std::to_string(tp) +
                 " tensor-parallel ranks; use tp <= " + std::to_string(c.heads));
  if (sequence_parallel && c.seq < tp)
    return wrong("a sequence of " + std::to_string(c.seq) + " can't be cut over " +
                 std::to_string(tp) + " ranks; switch sequence parallel off or use a longer one");
  if (c.dropout < 0 || c.dropout >= 1) return wrong("dropout must be in [0, 1)");
  return ok_status();
}

Llama::Llama(const LlamaConfig& config, const LlamaOptions& options, const LlamaStage& stage,
             const comm::Group& tensor_group)
    : config_(config), options_(options), stage_(stage), group_(tensor_group) {
  const Status ok = check(config, group_.size(), options.sequence_parallel);
  TORCH_CHECK(ok.ok(), ok.message());
  heads_ = parallel::shard_heads(config.heads, config.kv_heads, group_.size(), group_.rank());
  const bool wide = options.dtype == at::kDouble;
  rotary_ = parallel::rotary_tables(
      config.seq, config.head_dim(), config.rope_base,
      at::TensorOptions().dtype(wide ? at::kDouble : at::kFloat).device(options.device));
  const auto table = [&](const char* name) {
    return parallel::column_weight(name, config.vocab, config.hidden, group_);
  };
  if (stage.embedding) {
    Parameter p = table("embedding");
    p.shared_embedding = config.tied;
    p.uses = config.tied && stage.head ? 2 : 1;
    embedding_ = add(std::move(p), config.init_std);
  }
  for (int64_t i = stage.layer_begin; i < stage.layer_end; ++i) layers_.push_back(make_layer(i));
  if (!stage.head) return;
  norm_ = add_norm("norm");
  if (config.tied && stage.embedding) {
    head_ = embedding_;
  } else {
    Parameter p = table(config.tied ? "embedding" : "head");
    p.shared_embedding = config.tied;
    head_ = add(std::move(p), config.init_std);
  }
}

ParameterPtr Llama::add(Parameter description, double std) {
  const auto options = at::TensorOptions().dtype(options_.dtype).device(options_.device);
  parameters_.push_back(parallel::make_parameter(std::move(description), options));
  parallel::init_normal(*parameters_.back(), options_.seed, std);
  return parameters_.back();
}

ParameterPtr Llama::add_norm(const std::string& name) {
  Parameter p = parallel::describe(name, {config_.hidden}, Placement::replicate(), group_);
  p.weight_decay = false;
  if (options_.sequence_parallel && !group_.alone()) p.partial_rows = {0, config_.hidden};
  const auto options = at::TensorOptions().dtype(options_.dtype).device(options_.device);
  parameters_.push_back(parallel::make_parameter(std::move(p), options));
  parallel::init_constant(*parameters_.back(), 1);
  return parameters_.back();
}

Llama::Layer Llama::make_layer(int64_t index) {
  const LlamaConfig& c = config_;
  const std::string prefix = "layers." + std::to_string(index) + ".";
  // The residual stream's variance grows with the number of blocks added to it.
  const double out_std = c.init_std / std::sqrt(2.0 * static_cast<double>(c.layers));
  Layer l;
  l.index = index;
  l.attention_norm = add_norm(prefix + "attn.norm");
  l.qkv = add(parallel::qkv_weight(prefix + "attn.qkv", c.heads, c.kv_heads, c.head_dim(), c.hidden,
                                   group_),
              c.init_std);
  l.attention_out = add(parallel::row_weight(prefix + "attn.out", c.hidden, c.hidden, group_,
                                             {Segment{"heads", c.heads, c.head_dim()}}),
                        out_std);
  l.ffn_norm = add_norm(prefix + "ffn.norm");
  l.gate_up = add(parallel::column_weight(prefix + "ffn.gate_up", 2 * c.ffn, c.hidden, group_,
                                          {Segment{"gate", c.ffn}, Segment{"up", c.ffn}}),
                  c.init_std);
  l.down = add(parallel::row_weight(prefix + "ffn.down", c.hidden, c.ffn, group_), out_std);
  return l;
}

int64_t Llama::sequence_length(const MicroBatch& batch) const {
  if (batch.tokens.defined()) return batch.tokens.size(1);
  if (batch.targets.defined()) return batch.targets.size(1);
  return batch.seq > 0 ? batch.seq : config_.seq;
}

std::vector<int64_t> Llama::hidden_shape(int64_t batch, int64_t seq) const {
  if (seq == 0) seq = config_.seq;
  if (options_.sequence_parallel) seq = parallel::sequence_sizes(seq, group_.size())[group_.rank()];
  return {seq, batch, config_.hidden};
}

Llama::Call Llama::start(const MicroBatch& batch) const {
  Call call;
  const int64_t seq = sequence_length(batch);
  call.region = {group_,
                 options_.sequence_parallel,
                 {},
                 options_.recompute == Recompute::kSelective,
                 options_.overlap};
  call.place.seq_total = config_.seq;
  if (options_.sequence_parallel) {
    std::vector<int64_t> sizes = parallel::sequence_sizes(seq, group_.size());
    call.place.seq_begin = parallel::sequence_begin(sizes, group_.rank());
    if (seq % group_.size() != 0) call.region.sequence_sizes = std::move(sizes);
  }
  call.place.first_sample = batch.first_sample;
  call.place.sample_stride = batch.sample_stride;
  call.step = batch.step;
  call.dropout = batch.training ? config_.dropout : 0;
  return call;
}

parallel::DropoutSpec Llama::dropout(Purpose purpose, int64_t layer, const Call& call) const {
  return {call.dropout,
          parallel::RandomStream(options_.seed, purpose, call.step, static_cast<uint32_t>(layer)),
          call.place};
}

Llama::Stream Llama::layer(const Layer& l, const Stream& in, const Call& call) const {
  const bool again = options_.recompute == Recompute::kSelective;
  const double eps = config_.norm_eps;
  auto [x, normed] = parallel::add_rms_norm(
      in.x, in.delta, dropout(Purpose::kFfnDropout, in.from, call), l.attention_norm, eps, again);
  const at::Tensor qkv = parallel::column_parallel_linear(normed, l.qkv, {}, call.region);
  const Recomputable attended = parallel::attention(qkv, heads_, rotary_, again);
  const at::Tensor a = parallel::row_parallel_linear(attended, l.attention_out, {}, call.region);

  auto [y, normed_ffn] = parallel::add_rms_norm(
      x, a, dropout(Purpose::kAttentionDropout, l.index, call), l.ffn_norm, eps, again);
  const at::Tensor gate_up =
      parallel::column_parallel_linear(normed_ffn, l.gate_up, {}, call.region);
  const Recomputable product = parallel::swiglu(gate_up, again);
  return {y, parallel::row_parallel_linear(product, l.down, {}, call.region), l.index};
}

// Everything but the head and the loss: the normalised state on the last stage, else the hidden
// state.
Recomputable Llama::run(const at::Tensor& hidden, const Call& call, const MicroBatch& batch) const {
  Stream s;
  if (stage_.embedding) {
    TORCH_CHECK(batch.tokens.defined(), "the first stage needs tokens");
    s.x = parallel::vocab_parallel_embedding(batch.tokens, embedding_, call.region);
    s.x = parallel::dropout(s.x, dropout(Purpose::kEmbeddingDropout, 0, call));
  } else {
    s.x = hidden;
  }
  for (const Layer& l : layers_) {
    if (options_.recompute != Recompute::kFull) {
      s = layer(l, s, call);
      continue;
    }
    const auto block = [this, &l, call](const std::vector<at::Tensor>& in) {
      const Stream out = layer(l, {in[0], {}, 0}, call);
      return std::vector<at::Tensor>{
          parallel::add_dropout(out.x, out.delta, dropout(Purpose::kFfnDropout, out.from, call))};
    };
    s = {parallel::checkpoint(block, {s.x})[0], {}, 0};
  }
  const parallel::DropoutSpec last = dropout(Purpose::kFfnDropout, s.from, call);
  if (stage_.head)
    return parallel::add_rms_norm(s.x, s.delta, last, norm_, config_.norm_eps,
                                  options_.recompute != Recompute::kNone)
        .normed;
  return s.delta.defined() ? parallel::add_dropout(s.x, s.delta, last) : s.x;
}

at::Tensor Llama::forward(const at::Tensor& hidden, const MicroBatch& batch) const {
  const Call call = start(batch);
  const Recomputable out = run(hidden, call, batch);
  if (!stage_.head) return out.value;
  TORCH_CHECK(batch.targets.defined(), "the last stage needs targets");
  const at::Tensor logits = parallel::column_parallel_linear(out, head_, {}, call.region);
  return parallel::vocab_parallel_cross_entropy(logits, batch.targets, config_.vocab,
                                                batch.loss_scale, group_);
}

at::Tensor Llama::logits(const at::Tensor& hidden, const MicroBatch& batch) const {
  const Call call = start(batch);
  const Recomputable out = run(hidden, call, batch);
  if (!stage_.head) return out.value;
  const at::Tensor shard = parallel::column_parallel_linear(out, head_, {}, call.region);
  return parallel::gather_columns(shard, parallel::even_sizes(config_.vocab, group_.size()),
                                  group_);
}

}  // namespace convoy::model
