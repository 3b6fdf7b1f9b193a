#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace convoy::cli {

// The job's ranks as its mesh has them: a column for each data-parallel replica, a line for each
// pipeline stage, the other dimensions side by side in a cell, and how each rank is. `status`: as
// the supervisor tells it. Empty for one rank, for a mesh that can't be read, and for one that is
// too large for a terminal.
std::string mesh_map(const nlohmann::json& status);

}  // namespace convoy::cli
