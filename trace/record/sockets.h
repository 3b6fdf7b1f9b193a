#pragma once

namespace convoy::trace {

// Records the counters of all WatchedSockets, those of a link that have not changed left out.
void sample_sockets();

}  // namespace convoy::trace
