// Decides how a schedule looks in a terminal: everything is rounded to columns, so it uses its own
// costs (a chunk's forward is one column, its backward two), not the caller's.
#include <convoy/parallel/schedule/picture.h>
#include <convoy/parallel/schedule/validate.h>

#include <cmath>
#include <cstdio>

namespace convoy::schedule {
namespace {

std::string label(const Schedule& schedule, const Action& action) {
  std::string text(1, action.kind == Kind::kForward ? 'F' : 'B');
  text += std::to_string(action.microbatch);
  if (schedule.chunks > 1) text += static_cast<char>('a' + action.chunk % 26);
  return text;
}

std::string row(const Schedule& schedule, const Timeline& timeline, int rank, size_t width) {
  const int columns = static_cast<int>(std::lround(timeline.makespan));
  std::vector<std::string> cells(columns, ".");
  for (const Span& span : timeline.ranks[rank]) {
    const int start = static_cast<int>(std::lround(span.start));
    cells[start] = label(schedule, span.action);
    if (span.action.kind == Kind::kBackward) cells[start + 1] = std::string(width, '=');
  }
  std::string text;
  for (const std::string& cell : cells) {
    text += ' ' + cell + std::string(width - cell.size(), ' ');
  }
  return text;
}

}  // namespace

Result<std::string> to_text(const Schedule& schedule) {
  const Costs costs{1.0 * schedule.chunks, 2.0 * schedule.chunks, 0, {}};
  CONVOY_ASSIGN_OR_RETURN(const Timeline timeline, simulate(schedule, costs));
  char head[200];
  std::snprintf(head, sizeof(head),
                "%s: %d rank(s), %d micro-batch(es), %d chunk(s) a rank; bubble %.1f %%\n",
                schedule.name.c_str(), schedule.ranks, schedule.microbatches, schedule.chunks,
                100 * timeline.bubble_fraction);
  std::string text = head;
  const Action widest{Kind::kForward, schedule.microbatches - 1, 0, -1};
  const size_t width = label(schedule, widest).size();
  const size_t rank_width = std::to_string(schedule.ranks - 1).size();
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    const std::string number = std::to_string(rank);
    text += "rank " + std::string(rank_width - number.size(), ' ') + number + " |";
    text += row(schedule, timeline, rank, width);
    text += " | peak " + std::to_string(peak_activations(schedule, rank)) + " of " +
            std::to_string(schedule.max_activations[rank]) + "\n";
  }
  return text;
}

}  // namespace convoy::schedule
