#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>

namespace convoy::runtime {

// A place that committed checkpoints go to.
struct CheckpointPlace {
  std::string where;       // "": none
  int64_t keep = 2;        // newest ones that stay
  int64_t keep_every = 0;  // and each whose step is a multiple of it; 0: none
  uint64_t bandwidth = 0;  // bytes/s that a node writes; 0: no limit
  int compress = 0;        // zstd level; 0: none
};

// What a run saves, and resumes from. Neither folder nor store: nothing.
struct CheckpointOptions {
  CheckpointPlace folder;  // a path that all machines see
  CheckpointPlace remote;  // a URI of open_store(); takes what the folder has, if there is one
  int64_t every = 100;     // steps, and after the last one
  int64_t disk_every = 1;  // of the saves go to the folder, and the last one; others stay in memory
  int64_t remote_every = 1;        // of the saves go to the store
  bool incremental = true;         // chunks that have not changed are not written again
  bool spread = false;             // copy beside the next step's compute
  bool take_over = false;          // folder and store, from a job that has not released them
  int replica_k = 1;               // peer memory: each machine's snapshot is cut into k pieces, and
  int replica_m = 0;               // m more, for as many lost machines; 0: off
  uint64_t replica_bandwidth = 0;  // bytes/s that a machine sends; 0: no limit
  std::string domain;              // of failure, of this machine: rack, power feed
  bool any() const { return !folder.where.empty() || !remote.where.empty(); }
};

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
  CheckpointOptions checkpoint;
  std::string reference;  // metrics.jsonl of another run, whose curve is drawn too
  std::string run_dir;    // where config.json, metrics.jsonl and loss.svg go; "": CONVOY_RUN_DIR
  int sample = 240;       // bytes of text generated at the end
  double temperature = 0.8;
  std::string prompt = "And God said";
  bool json = false;        // the result as one JSON line on stdout, no progress line
  bool measure_one = true;  // measure the rate of one process first
  // Replicas are compared piece by piece, all of them in so many steps; 0: never.
  int64_t check_replicas = 16;
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
