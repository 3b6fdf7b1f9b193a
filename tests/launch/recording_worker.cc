// A rank that records, for tests of `convoy run --trace`: recording_worker COUNT [VICTIM]
// COUNT collectives, 5 ms each. The rank VICTIM kills itself half-way, in the middle of one; the
// others then wait for it in the next.
#include <convoy/launch/environment.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <csignal>
#include <cstdlib>
#include <unistd.h>

int main(int argc, char** argv) {
  using namespace convoy::trace;
  const auto environment = convoy::launch::read_environment();
  if (!environment.ok() || argc < 2) return 64;
  if (environment->trace == "off") return 0;
  SegmentOptions options;
  options.rank = environment->rank;
  options.world_size = environment->world_size;
  if (!open_recorder(options).ok()) return 70;
  const auto count = static_cast<uint32_t>(std::atoi(argv[1]));
  const int victim = argc > 2 ? std::atoi(argv[2]) : -1;
  GroupInfo world{"world", {}};
  for (int rank = 0; rank < options.world_size; ++rank) {
    world.ranks.push_back(static_cast<uint32_t>(rank));
  }
  const uint16_t group = intern(group_text(world));
  const uint16_t name = intern(operation_text({"all_reduce", "float32", "sum", false}));
  for (uint32_t i = 1; i <= count; ++i) {
    const bool is_end = victim >= 0 && i > count / 2;
    if (is_end && victim == environment->rank) ::raise(SIGKILL);
    Record record{.value = 64, .sequence = i, .name = name, .group = group, .kind = Kind::kIssued};
    convoy::trace::record(Level::kCollectives, record);
    if (is_end) ::pause();
    ::usleep(5000);
    record.kind = Kind::kCompleted;
    record.value = 0;
    convoy::trace::record(Level::kCollectives, record);
  }
  return 0;
}
