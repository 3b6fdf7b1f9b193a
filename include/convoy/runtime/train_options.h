#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>

namespace convoy::runtime {

// What a language-model training run is told on its command line. Plain data, free of torch.
struct TrainOptions {
  std::string data;               // token file to train on
  std::string validation;         // token file to validate on; "": the last twentieth of `data`
  std::string mesh;               // "tp=2,pp=2,dp=2"; "": CONVOY_MESH, else all ranks dp
  std::string device = "cpu";     // cpu | cuda
  std::string config = "small";   // small | medium | demo, see model_preset()
  std::string schedule = "1f1b";  // gpipe | 1f1b | interleaved
  int chunks = 2;                 // model chunks a rank, interleaved only
  int microbatches = 0;           // in a step, of one data-parallel rank; 0: as many as fit well
  int64_t batch = 0;              // sequences a step over all ranks; 0: the preset's
  int64_t sequence = 0;           // tokens of a sequence; 0: the preset's
  bool zero = false;              // ZeRO stage 1
  bool sequence_parallel = false;
  std::string recompute = "none";  // none | selective | full
  std::string dtype = "float32";   // float32 | bfloat16 | float64
  double dropout = 0;
  double lr = 0;  // peak; 0: the preset's
  double weight_decay = 0.1;
  double clip = 1.0;   // global gradient norm; 0: no clipping
  int64_t steps = 0;   // 0: the preset's
  double seconds = 0;  // stop training after so much time; 0: no limit
  uint64_t seed = 1;
  std::string checkpoint;          // folder to resume from and to save to; "": none
  int64_t checkpoint_every = 100;  // steps, and after the last one
  int64_t checkpoint_keep = 2;     // newest ones that stay
  uint64_t checkpoint_bandwidth = 0;  // bytes/s of a node's writes; 0: no limit
  bool checkpoint_spread = false;     // copy beside the next step's compute
  bool take_over = false;             // the folder from a job that has not released it
  std::string reference;  // metrics.jsonl of another run, whose curve is drawn too
  std::string run_dir;  // where config.json, metrics.jsonl and loss.svg go; "": CONVOY_RUN_DIR
  int sample = 240;     // bytes of text generated at the end
  double temperature = 0.8;
  std::string prompt = "And God said";
  bool json = false;        // the result as one JSON line on stdout, no progress line
  bool measure_one = true;  // measure the rate of one process first
};

// The shape and the defaults behind a --config name.
struct ModelPreset {
  int64_t hidden = 128;
  int64_t layers = 4;
  int64_t heads = 8;
  int64_t kv_heads = 4;
  int64_t ffn = 384;
  int64_t sequence = 128;
  int64_t batch = 16;
  int64_t steps = 200;
  double lr = 1e-3;
};
// kInvalidArgument lists the names there are.
Result<ModelPreset> model_preset(const std::string& name);

// Reads a command line. kInvalidArgument: unknown options and illegal values, in one sentence.
// `help` is set to the help text when --help was given, and the options are the defaults then.
Result<TrainOptions> parse_train_options(int argc, const char* const* argv, std::string* help);

// The options and the preset in force as indented JSON, for config.json.
std::string describe_json(const TrainOptions& options, const ModelPreset& preset,
                          const std::string& mesh, int64_t parameters);

}  // namespace convoy::runtime
