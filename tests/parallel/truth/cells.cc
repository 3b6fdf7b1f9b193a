// Enumerates the cells; decides which switches make a difference on which mesh.
#include "tests/parallel/truth/cells.h"

namespace convoy::truth {
namespace {

struct Pipeline {
  const char* schedule;
  int chunks;
};

// With one stage, GPipe and 1F1B are the same loop over micro-batches; one of them is enough.
std::vector<Pipeline> pipelines(int pp) {
  if (pp == 1) return {{"1f1b", 1}};
  return {{"gpipe", 1}, {"1f1b", 1}, {"interleaved", 2}};
}

void add_mesh(int tp, int pp, int dp, std::vector<Cell>& out) {
  int variant = 0;
  for (const Pipeline& pipeline : pipelines(pp)) {
    for (int sequence = 0; sequence <= (tp > 1 ? 1 : 0); ++sequence) {
      for (int zero = 0; zero <= (dp > 1 ? 1 : 0); ++zero) {
        for (int recompute = 0; recompute < 3; ++recompute) {
          Cell cell{tp,        pp,       dp, pipeline.schedule, pipeline.chunks, sequence == 1,
                    zero == 1, recompute};
          out.push_back(cell);
          // The variations go along with one of the three recompute modes in turn.
          if (recompute != variant % 3) continue;
          cell.wide = false;
          out.push_back(cell);
          cell.wide = true;
          cell.dropout = true;
          out.push_back(cell);
          cell.dropout = false;
          cell.tied = false;
          out.push_back(cell);
        }
        ++variant;
      }
    }
  }
}

}  // namespace

std::string Cell::mesh() const {
  return "tp=" + std::to_string(tp) + ",pp=" + std::to_string(pp) + ",dp=" + std::to_string(dp);
}

std::string Cell::name() const {
  static const char* const kRecompute[] = {"", " selective", " full"};
  std::string out = mesh() + " " + schedule;
  if (sequence_parallel) out += " sp";
  if (zero) out += " zero";
  out += kRecompute[recompute];
  if (!wide) out += " float32";
  if (dropout) out += " dropout";
  if (!tied) out += " untied";
  return out;
}

std::vector<Cell> all_cells() {
  std::vector<Cell> out;
  for (const int ranks : {1, 2, 4, 8}) {
    for (int tp = 1; tp <= ranks; tp *= 2) {
      for (int pp = 1; tp * pp <= ranks; pp *= 2) add_mesh(tp, pp, ranks / (tp * pp), out);
    }
  }
  return out;
}

}  // namespace convoy::truth
