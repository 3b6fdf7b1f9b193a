// The peer of train.overhead: the benchmark's model in plain libtorch, as a careful user writes it
// by hand (torch::nn, fused attention, torch::optim::AdamW), one process, no Convoy. The same
// arguments and output as train_bench, without MICROBATCHES.
#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

namespace {

struct Sizes {
  int64_t hidden = 128, layers = 4, heads = 8, kv = 4, ffn = 384, seq = 128, batch = 16;
};
constexpr int64_t kVocabulary = 256;

torch::Tensor rotate(const torch::Tensor& z, const torch::Tensor& cosine,
                     const torch::Tensor& sine) {
  const auto halves = z.chunk(2, -1);
  return torch::cat({halves[0] * cosine - halves[1] * sine, halves[1] * cosine + halves[0] * sine},
                    -1);
}

struct RmsNorm : torch::nn::Module {
  explicit RmsNorm(int64_t width) : weight(register_parameter("weight", torch::ones(width))) {}
  torch::Tensor forward(const torch::Tensor& x) {
    return x * torch::rsqrt(x.pow(2).mean(-1, true) + 1e-5) * weight;
  }
  torch::Tensor weight;
};

struct Block : torch::nn::Module {
  Block(const Sizes& s, torch::Tensor cosine_in, torch::Tensor sine_in)
      : head(s.hidden / s.heads),
        n1(std::make_shared<RmsNorm>(s.hidden)),
        n2(std::make_shared<RmsNorm>(s.hidden)),
        cosine(std::move(cosine_in)),
        sine(std::move(sine_in)) {
    const auto linear = [](int64_t in, int64_t out) {
      return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
    };
    qkv = register_module("qkv", linear(s.hidden, (s.heads + 2 * s.kv) * head));
    out = register_module("out", linear(s.hidden, s.hidden));
    gate_up = register_module("gate_up", linear(s.hidden, 2 * s.ffn));
    down = register_module("down", linear(s.ffn, s.hidden));
    register_module("n1", n1);
    register_module("n2", n2);
    sizes = {s.heads * head, s.kv * head, s.kv * head};
    repeat = s.heads / s.kv;
  }
  torch::Tensor attention(const torch::Tensor& x) {
    const int64_t b = x.size(0), t = x.size(1);
    const auto parts = qkv(x).split_with_sizes(sizes, -1);
    const auto view = [&](const torch::Tensor& z) {
      return z.view({b, t, -1, head}).transpose(1, 2);
    };
    const auto q = rotate(view(parts[0]), cosine, sine), k = rotate(view(parts[1]), cosine, sine);
    const auto mixed = torch::scaled_dot_product_attention(
        q, k.repeat_interleave(repeat, 1), view(parts[2]).repeat_interleave(repeat, 1), {}, 0.0,
        true);
    return out(mixed.transpose(1, 2).reshape({b, t, -1}));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = x + attention(n1->forward(x));
    const auto halves = gate_up(n2->forward(x)).chunk(2, -1);
    return x + down(torch::silu(halves[0]) * halves[1]);
  }
  int64_t head, repeat = 1;
  std::shared_ptr<RmsNorm> n1, n2;
  torch::Tensor cosine, sine;
  std::vector<int64_t> sizes;
  torch::nn::Linear qkv{nullptr}, out{nullptr}, gate_up{nullptr}, down{nullptr};
};

struct Llama : torch::nn::Module {
  explicit Llama(const Sizes& s) : norm(std::make_shared<RmsNorm>(s.hidden)) {
    const int64_t half = s.hidden / s.heads / 2;
    const auto rates =
        torch::pow(10000.0, torch::arange(half, torch::kFloat) / -static_cast<double>(half));
    const auto angles = torch::arange(s.seq, torch::kFloat).unsqueeze(1) * rates;
    embed = register_module("embed", torch::nn::Embedding(kVocabulary, s.hidden));
    for (int64_t i = 0; i < s.layers; ++i) {
      blocks.push_back(register_module("layers" + std::to_string(i),
                                       std::make_shared<Block>(s, angles.cos(), angles.sin())));
    }
    register_module("norm", norm);
    head = register_module(
        "head", torch::nn::Linear(torch::nn::LinearOptions(s.hidden, kVocabulary).bias(false)));
  }
  torch::Tensor forward(const torch::Tensor& tokens) {
    auto x = embed(tokens);
    for (auto& block : blocks) x = block->forward(x);
    return head(norm->forward(x));
  }
  std::vector<std::shared_ptr<Block>> blocks;
  torch::nn::Embedding embed{nullptr};
  std::shared_ptr<RmsNorm> norm;
  torch::nn::Linear head{nullptr};
};

void read_into(const torch::Tensor& weight, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(weight.data_ptr()), static_cast<std::streamsize>(weight.nbytes()));
  TORCH_CHECK(file.good(), "can't read ", path);
}

void load_weights(Llama& model, const std::string& folder) {
  const torch::NoGradGuard no_grad;
  read_into(model.embed->weight, folder + "/embedding.f32");
  read_into(model.head->weight, folder + "/head.f32");
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    const std::string prefix = folder + "/layers." + std::to_string(i) + ".";
    read_into(model.blocks[i]->qkv->weight, prefix + "attn.qkv.f32");
    read_into(model.blocks[i]->out->weight, prefix + "attn.out.f32");
    read_into(model.blocks[i]->gate_up->weight, prefix + "ffn.gate_up.f32");
    read_into(model.blocks[i]->down->weight, prefix + "ffn.down.f32");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: libtorch_loop small|medium STEPS WEIGHTS_DIR\n");
    return 64;
  }
  const Sizes s = std::string(argv[1]) == "medium" ? Sizes{384, 8, 8, 4, 1024, 256, 8} : Sizes{};
  Llama model(s);
  load_weights(model, argv[3]);
  torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(3e-4));
  std::vector<double> seconds;
  double loss_value = 0;
  for (int step = 0; step < std::stoi(argv[2]) + 2; ++step) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(step));
    const auto all = torch::randint(0, kVocabulary, {s.batch, s.seq + 1}, generator, torch::kLong);
    const auto begin = std::chrono::steady_clock::now();
    optimizer.zero_grad(true);
    const auto logits = model.forward(all.narrow(1, 0, s.seq));
    const auto loss = torch::cross_entropy_loss(logits.reshape({-1, kVocabulary}),
                                                all.narrow(1, 1, s.seq).reshape({-1}));
    loss.backward();
    optimizer.step();
    loss_value = loss.item<double>();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    if (step >= 2) seconds.push_back(spent.count());
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("{\"tokens_per_s\": %.1f, \"loss\": %.5f}\n",
              static_cast<double>(s.batch * s.seq) / seconds[seconds.size() / 2], loss_value);
  return 0;
}
