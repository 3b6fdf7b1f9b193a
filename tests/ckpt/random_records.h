#pragma once

#include <convoy/ckpt/records.h>

#include <random>

// Random records that keep every rule, for round trips, and small fixed ones, the golden files'.
namespace convoy::ckpt {

Part random_part(std::mt19937& random);
Commit random_commit(std::mt19937& random);
Owner random_owner(std::mt19937& random);

Part golden_part();
Commit golden_commit();
Owner golden_owner();

}  // namespace convoy::ckpt
