// Decoding through all stages of the pipeline: every token is one forward-only run, after which the
// last stage tells the others what it drew.
#include <convoy/base/check.h>
#include <convoy/runtime/trainer.h>

#include <ATen/ops/full.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <random>

namespace convoy::runtime {
namespace {

// The next token from the logits of one position.
int64_t draw(const at::Tensor& logits, double temperature, std::mt19937_64& random) {
  if (temperature <= 0) return logits.argmax().item<int64_t>();
  const at::Tensor shares = at::softmax(logits.to(at::kDouble) / temperature, 0).contiguous().cpu();
  const auto* share = shares.const_data_ptr<double>();
  // 53 random bits: the same on every machine, unlike std::uniform_real_distribution.
  double left = static_cast<double>(random() >> 11) * 0x1p-53;
  for (int64_t token = 0; token < shares.numel(); ++token) {
    left -= share[token];
    if (left < 0) return token;
  }
  return shares.numel() - 1;
}

}  // namespace

std::vector<int64_t> Trainer::generate(std::vector<int64_t> tokens, int count, double temperature,
                                       uint64_t seed) {
  TORCH_CHECK(!tokens.empty(), "a sample needs at least one token to begin with");
  std::mt19937_64 random(seed);
  const auto longest = static_cast<size_t>(options_.model.seq);
  // With sequence parallel every tensor rank needs a position; what follows is never looked at.
  const auto least = static_cast<size_t>(tp_.size());
  for (int i = 0; i < count; ++i) {
    const size_t used = std::min(longest, tokens.size());
    const size_t length = std::max(used, least);
    work_ = {};
    work_.purpose = Purpose::kLogits;
    const at::Tensor window = at::full({1, static_cast<int64_t>(length)}, 0, at::kLong);
    std::copy(tokens.end() - static_cast<std::ptrdiff_t>(used), tokens.end(),
              window.mutable_data_ptr<int64_t>());
    work_.tokens = window.to(options_.llama.device);
    const std::vector<at::Tensor> logits = executor_->forward_only(1, hidden_state());
    int64_t next = 0;
    if (executor_->has_last_stage()) {
      next = draw(logits[0].select(0, static_cast<int64_t>(used) - 1).select(0, 0), temperature,
                  random);
    }
    pp_.broadcast_numbers({&next, 1}, pp_.size() - 1);
    tokens.push_back(next);
  }
  return tokens;
}

}  // namespace convoy::runtime
