#pragma once

#include <convoy/ckpt/safetensors.h>

// What the parts of the safetensors code share.
namespace convoy::ckpt {

inline constexpr std::string_view kSafetensorsIndexName = "model.safetensors.index.json";
inline constexpr std::string_view kSafetensorsSingleName = "model.safetensors";
inline constexpr std::string_view kSafetensorsSuffix = ".safetensors";

// "model-00001-of-00003.safetensors"; index from 0.
std::string safetensors_shard_name(size_t index, size_t count);

// Whether `name` is a plain file name: no folder, not hidden.
bool is_plain_name(std::string_view name);

}  // namespace convoy::ckpt
