// The command line of the trainer, and what the names of model sizes stand for.
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/store.h>
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
  app.add_option(
         "--check-replicas", o.check_replicas,
         "compare a piece of all data-parallel replicas in each step, all in so many; 0: never")
      ->check(CLI::Range(0, 100000));
  app.add_flag("!--no-baseline", o.measure_one, "don't measure the rate of one process first");
}

// Options whose texts mean more than CLI11 can read.
struct Texts {
  std::string bandwidth, remote_bandwidth, replica_bandwidth, replicas;
};

// --checkpoint-keep and the like, or --checkpoint-remote-keep.
void describe_place(CLI::App& app, const std::string& prefix, CheckpointPlace& place,
                    std::string& bandwidth) {
  const std::string in = prefix == "--checkpoint" ? " in the folder" : " in the store";
  app.add_option(prefix + "-keep", place.keep, "newest checkpoints that stay" + in)
      ->check(kPositive);
  app.add_option(prefix + "-keep-every", place.keep_every,
                 "those whose step is a multiple of it stay too; 0: none")
      ->check(CLI::NonNegativeNumber);
  app.add_option(prefix + "-bandwidth", bandwidth, "of the writes, e.g. 200MiB (a second)");
  app.add_option(prefix + "-compress", place.compress, "zstd level; 0: none")
      ->check(CLI::Range(0, 22));
}

void describe_checkpoints(CLI::App& app, CheckpointOptions& o, Texts& texts) {
  app.add_option("--checkpoint", o.folder.where,
                 "folder to save to, and to resume from if it has a step; any mesh will do");
  app.add_option("--checkpoint-every", o.every, "steps between saves")->check(kPositive);
  app.add_option("--checkpoint-disk-every", o.disk_every,
                 "of the saves one in so many goes to the folder, and the last one; the others "
                 "stay in memory")
      ->check(kPositive);
  describe_place(app, "--checkpoint", o.folder, texts.bandwidth);
  app.add_option("--checkpoint-remote", o.remote.where,
                 "object store to save to, too, such as s3://bucket/run; the last resort to resume "
                 "from")
      ->type_name("URI");
  app.add_option("--checkpoint-remote-every", o.remote_every,
                 "of the saves one in so many goes to the store, and the last one")
      ->check(kPositive);
  describe_place(app, "--checkpoint-remote", o.remote, texts.remote_bandwidth);
  app.add_option("--checkpoint-replicas", texts.replicas,
                 "keep each save in other machines' memory, too: in K pieces with M more for as "
                 "many lost machines; 1,1: a copy")
      ->type_name("K,M");
  app.add_option("--checkpoint-replica-bandwidth", texts.replica_bandwidth,
                 "that a machine sends, e.g. 1GiB (a second)");
  app.add_option("--checkpoint-domain", o.domain,
                 "this machine's rack or power feed; pieces go to others");
  app.add_flag("!--no-checkpoint-incremental", o.incremental,
               "write all of each checkpoint, not only what has changed");
  app.add_flag("--checkpoint-spread", o.spread,
               "copy beside the next step's compute, not before it");
  app.add_flag("--take-over", o.take_over,
               "take folder and store from another job that was killed before it could give them "
               "back");
}

Status read_replicas(const std::string& text, CheckpointOptions& o) {
  const std::vector<std::string> numbers = split(text, ',');
  if (numbers.size() != 2) {
    return {Code::kInvalidArgument, "--checkpoint-replicas is '" + text +
                                        "', but must be K,M: pieces, and how many lost machines "
                                        "they survive, e.g. 1,1 or 4,2."};
  }
  CONVOY_ASSIGN_OR_RETURN(const int64_t k, parse_integer("K of --checkpoint-replicas", numbers[0],
                                                         1, ckpt::kReplicaPiecesMax - 1));
  CONVOY_ASSIGN_OR_RETURN(const int64_t m, parse_integer("M of --checkpoint-replicas", numbers[1],
                                                         0, ckpt::kReplicaPiecesMax - k));
  o.replica_k = static_cast<int>(k);
  o.replica_m = static_cast<int>(m);
  return ok_status();
}

Status read_bandwidth(const char* name, const std::string& text, uint64_t& out) {
  if (text.empty()) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(out, parse_bytes(name, text));
  return ok_status();
}

Status complete(const CLI::App& app, const Texts& texts, CheckpointOptions& o) {
  CONVOY_RETURN_IF_ERROR(
      read_bandwidth("--checkpoint-bandwidth", texts.bandwidth, o.folder.bandwidth));
  CONVOY_RETURN_IF_ERROR(
      read_bandwidth("--checkpoint-remote-bandwidth", texts.remote_bandwidth, o.remote.bandwidth));
  CONVOY_RETURN_IF_ERROR(read_bandwidth("--checkpoint-replica-bandwidth", texts.replica_bandwidth,
                                        o.replica_bandwidth));
  if (!texts.replicas.empty()) CONVOY_RETURN_IF_ERROR(read_replicas(texts.replicas, o));
  if (!o.remote.where.empty() && !ckpt::is_store_uri(o.remote.where)) {
    return {Code::kInvalidArgument,
            "--checkpoint-remote is '" + o.remote.where +
                "', but must be a URI such as s3://bucket/run; a folder is for --checkpoint."};
  }
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0) continue;
    if (o.remote.where.empty() && name.starts_with("--checkpoint-remote-")) {
      return {Code::kInvalidArgument, name + " needs --checkpoint-remote URI."};
    }
    if (!o.any() && (name.starts_with("--checkpoint-") || name.starts_with("--no-checkpoint-"))) {
      return {Code::kInvalidArgument,
              name + " needs --checkpoint FOLDER or --checkpoint-remote URI."};
    }
  }
  return ok_status();
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
  Texts texts;
  describe_run(app, options);
  describe_checkpoints(app, options.checkpoint, texts);
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
  CONVOY_RETURN_IF_ERROR(complete(app, texts, options.checkpoint));
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
      {"checkpoint", options.checkpoint.folder.where},
      {"checkpoint_remote", options.checkpoint.remote.where},
      {"checkpoint_every", options.checkpoint.every},
  };
  return json.dump(2) + "\n";
}

}  // namespace convoy::runtime
