#pragma once

#include "src/standin/standin.h"

#include <string>

// Device memory of other processes of this machine: what NVLink and cudaIpc give on a GPU.
//
// A peer's whole device is mapped into a window behind this process's own devices, again twice:
// without access where programs see it, and at its alias for the stand-in's work. It stays mapped
// until this process ends, also when the peer has died: its last bytes can still be read.
namespace convoy::standin {

// Where the peer's device begins here; this process's own device begins where it always does. 0 and
// `why` when the peer has gone or may not be looked into. Any thread.
uintptr_t open_peer(const StandinPeerDevice& peer, std::string& why);

}  // namespace convoy::standin
