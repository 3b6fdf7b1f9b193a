#pragma once

#include <convoy/launch/environment.h>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdint>
#include <string>

namespace convoy::runtime {

// Where the ranks of one generation meet. On one machine under `convoy run` that is a folder, which
// outlives all of them and needs no port, else a TCPStore that one of the ranks serves.
bool meets_in_folder(const launch::Environment& environment);
// CONVOY_RUN_DIR/control/store.GENERATION, which the launcher keeps free of earlier runs' files.
c10::intrusive_ptr<c10d::Store> folder_store(const launch::Environment& environment,
                                             int generation);

// How a rank that serves a store connects to it itself, wherever the job's first store was: an
// address of the same kind.
std::string own_name(const launch::Environment& environment);

// Serves a TCPStore at options.port (0: any free one) and connects to it as `host`. Listens on IPv4
// alone where `host` is such an address: c10d's server asks for the name of each peer that
// connects, and an IPv4 address in IPv6's form stands in no hosts file, so that every connection
// could wait for a name server. Throws c10::Error.
c10::intrusive_ptr<c10d::TCPStore> serve_store(const std::string& host,
                                               c10d::TCPStoreOptions options);

// Of a generation that is to come, whose ranks meet over the network: serves its store at any free
// port, and this process is a client.
c10::intrusive_ptr<c10d::TCPStore> serve_next_store(const launch::Environment& environment);
// Where its ranks meet, if this one does not serve the store itself. Throws c10::Error.
c10::intrusive_ptr<c10d::Store> reach_store(const launch::Environment& environment, int generation,
                                            const std::string& host, uint16_t port);

}  // namespace convoy::runtime
