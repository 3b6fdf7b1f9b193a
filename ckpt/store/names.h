#pragma once

#include <convoy/ckpt/records.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The names of a checkpoint folder's files, made and understood. Numbers are padded with zeros for
// people; readers compare them as numbers.
namespace convoy::ckpt {

inline constexpr std::string_view kOwnerFolder = "owner/";
inline constexpr std::string_view kCommitFolder = "commits/";
inline constexpr std::string_view kDataFolder = "data/";

std::string owner_name(uint64_t claim);         // owner/c00000007
std::string commit_name(const CommitKey& key);  // commits/s000000000120-c00000007
std::string step_folder(uint64_t step);         // data/s000000000120/
// data/s000000000120/c00000007-g3/n00012.part, and …/n00012-000.chunks
std::string part_name(const CommitKey& key, uint64_t generation, uint32_t node);
std::string data_name(const CommitKey& key, uint64_t generation, uint32_t node, uint32_t index);

std::optional<uint64_t> parse_owner(std::string_view path);
std::optional<CommitKey> parse_commit(std::string_view path);
// Step and claim of a part or chunk file: exactly the names above, nothing else.
std::optional<CommitKey> parse_data(std::string_view path);

}  // namespace convoy::ckpt
