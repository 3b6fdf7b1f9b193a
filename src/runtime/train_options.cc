// The command line of the trainer, and what the names of model sizes stand for.
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/runtime/train_options.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace convoy::runtime {
namespace {

// The text of a CLI11 error on one line.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

// CLI11's own check explains itself with the range of a double.
const CLI::Validator kPositive(
    [](const std::string& text) {
      double value = 0;
      const bool good = CLI::detail::lexical_cast(text, value) && value > 0;
      return good ? std::string() : "must be a number above 0, not '" + text + "'";
    },
    "POSITIVE", "positive");

Status unknown_word(const CLI::App& app) {
  const std::vector<std::string> left = app.remaining();
  const auto option = std::find_if(left.begin(), left.end(),
                                   [](const std::string& word) { return word.starts_with("-"); });
  const std::string word = option != left.end() ? *option : left.empty() ? "" : left.front();
  std::vector<std::string> known;
  for (const CLI::Option* o : app.get_options()) {
    for (const std::string& name : o->get_lnames()) known.push_back("--" + name);
  }
  const std::string near = nearest_name(word.substr(0, word.find('=')), known);
  return {Code::kInvalidArgument, "there is no option '" + word + "'." +
                                      (near.empty() ? "" : " Did you mean " + near + "?") +
                                      " `--help` lists the options of this program."};
}

void describe_run(CLI::App& app, TrainOptions& o) {
  app.add_option("--data", o.data, "token file (made by `convoy data prepare`)")->required();
  app.add_option("--validation", o.validation, "token file for the validation loss");
  app.add_option("--steps", o.steps, "optimizer steps")->check(kPositive);
  app.add_option("--seconds", o.seconds, "stop training after this time")->check(kPositive);
  app.add_option("--seed", o.seed, "of initial weights, sampling and dropout");
  app.add_option("--reference", o.reference,
                 "metrics.jsonl of another run: its curve is drawn into loss.svg too");
  app.add_option("--run-dir", o.run_dir, "folder for config.json, metrics.jsonl, loss.svg");
  app.add_option("--sample", o.sample, "bytes of text generated at the end")
      ->check(CLI::Range(0, 100000));
  app.add_option("--temperature", o.temperature, "of the generated text; 0: greedy")
      ->check(CLI::Range(0.0, 10.0));
  app.add_option("--prompt", o.prompt, "how the generated text begins");
  app.add_flag("--json", o.json, "print the result as one JSON line, and no progress");
  app.add_flag("!--no-baseline", o.measure_one, "don't measure the rate of one process first");
}

void describe_checkpoints(CLI::App& app, TrainOptions& o, std::string& bandwidth) {
  app.add_option("--checkpoint", o.checkpoint,
                 "folder to save to, and to resume from if it has a step; any mesh will do");
  app.add_option("--checkpoint-every", o.checkpoint_every, "steps between saves")->check(kPositive);
  app.add_option("--checkpoint-keep", o.checkpoint_keep, "newest checkpoints that stay")
      ->check(kPositive);
  app.add_option("--checkpoint-bandwidth", bandwidth, "of the writes, e.g. 200MiB (a second)");
  app.add_flag("--checkpoint-spread", o.checkpoint_spread,
               "copy beside the next step's compute, not before it");
  app.add_flag("--take-over", o.take_over,
               "take the folder from another job that was killed before it could give it back");
}

void describe_model(CLI::App& app, TrainOptions& o) {
  app.add_option("--config", o.config, "size of the model: small, medium or demo")
      ->check(CLI::IsMember({"small", "medium", "demo"}));
  app.add_option("--batch", o.batch, "sequences a step, over all ranks")->check(kPositive);
  app.add_option("--sequence", o.sequence, "tokens of a sequence")->check(kPositive);
  app.add_option("--dtype", o.dtype, "of the parameters")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}));
  app.add_option("--dropout", o.dropout, "probability")->check(CLI::Range(0.0, 0.9));
  app.add_option("--lr", o.lr, "peak learning rate")->check(kPositive);
  app.add_option("--weight-decay", o.weight_decay, "")->check(CLI::NonNegativeNumber);
  app.add_option("--clip", o.clip, "limit of the gradient norm; 0: none")
      ->check(CLI::NonNegativeNumber);
}

void describe_parallel(CLI::App& app, TrainOptions& o) {
  app.add_option("--mesh", o.mesh, "tp=2,pp=2,dp=2 (default: CONVOY_MESH, else all dp)");
  app.add_option("--device", o.device,
                 "what ranks compute on: cpu, or cuda (each on the GPU of its local rank)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--schedule", o.schedule, "of the pipeline")
      ->check(CLI::IsMember({"gpipe", "1f1b", "interleaved"}));
  app.add_option("--chunks", o.chunks, "model chunks a rank, interleaved schedule")
      ->check(CLI::Range(1, 64));
  app.add_option("--microbatches", o.microbatches, "in a step of one data-parallel rank")
      ->check(kPositive);
  app.add_flag("--zero", o.zero, "shard the optimizer over dp (ZeRO stage 1)");
  app.add_flag("--sequence-parallel", o.sequence_parallel,
               "cut activations along the sequence between tensor-parallel regions");
  app.add_option("--recompute", o.recompute, "activations: none, selective or full")
      ->check(CLI::IsMember({"none", "selective", "full"}));
}

}  // namespace

Result<ModelPreset> model_preset(const std::string& name) {
  // small and medium are those of the training benchmarks.
  if (name == "small") return ModelPreset{};
  if (name == "medium") {
    return ModelPreset{.hidden = 384,
                       .layers = 8,
                       .heads = 8,
                       .kv_heads = 4,
                       .ffn = 1024,
                       .sequence = 256,
                       .batch = 8,
                       .steps = 200,
                       .lr = 6e-4};
  }
  if (name == "demo") {
    return ModelPreset{.hidden = 128,
                       .layers = 6,
                       .heads = 4,
                       .kv_heads = 2,
                       .ffn = 352,
                       .sequence = 128,
                       .batch = 16,
                       .steps = 700,
                       .lr = 3e-3};
  }
  return Status(Code::kInvalidArgument,
                "there is no model size \"" + name + "\"; take small, medium or demo");
}

Result<TrainOptions> parse_train_options(int argc, const char* const* argv, std::string* help) {
  TrainOptions options;
  CLI::App app("Trains a Llama-family language model on a token file, over the mesh of the job.");
  // A script's usual options can be followed by others: the last one counts.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  std::string bandwidth;
  describe_run(app, options);
  describe_checkpoints(app, options, bandwidth);
  describe_model(app, options);
  describe_parallel(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    *help = app.help();
    return TrainOptions{};
  } catch (const CLI::ParseError& error) {
    // A misspelt option also leaves a required one missing.
    if (!app.remaining().empty()) return unknown_word(app);
    return Status(Code::kInvalidArgument,
                  one_line(error.what()) + ". `--help` lists the options of this program.");
  }
  if (!bandwidth.empty()) {
    CONVOY_ASSIGN_OR_RETURN(options.checkpoint_bandwidth,
                            parse_bytes("--checkpoint-bandwidth", bandwidth));
  }
  return options;
}

std::string describe_json(const TrainOptions& options, const ModelPreset& preset,
                          const std::string& mesh, int64_t parameters) {
  const nlohmann::ordered_json json = {
      {"data", options.data},
      {"mesh", mesh},
      {"device", options.device},
      {"schedule", options.schedule},
      {"chunks", options.chunks},
      {"microbatches", options.microbatches},
      {"zero", options.zero},
      {"sequence_parallel", options.sequence_parallel},
      {"recompute", options.recompute},
      {"dtype", options.dtype},
      {"dropout", options.dropout},
      {"config", options.config},
      {"parameters", parameters},
      {"hidden", preset.hidden},
      {"layers", preset.layers},
      {"heads", preset.heads},
      {"kv_heads", preset.kv_heads},
      {"ffn", preset.ffn},
      {"sequence", preset.sequence},
      {"batch", preset.batch},
      {"steps", preset.steps},
      {"seconds", options.seconds},
      {"lr", preset.lr},
      {"weight_decay", options.weight_decay},
      {"clip", options.clip},
      {"seed", options.seed},
      {"checkpoint", options.checkpoint},
      {"checkpoint_every", options.checkpoint_every},
  };
  return json.dump(2) + "\n";
}

}  // namespace convoy::runtime
