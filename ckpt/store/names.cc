// Makes and parses file names. Parsing makes the name again and compares: only what we would write
// is ours.
#include "ckpt/store/names.h"

#include <array>
#include <charconv>
#include <cstdio>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kClaimMax = uint64_t{1} << 62;  // so that there is always a next one

std::string padded(uint64_t number, int digits) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%0*llu", digits,
                static_cast<unsigned long long>(number));
  return text.data();
}

// Removes `word` from the front of `text`.
bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

template <class Number>
bool take_number(std::string_view& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

std::string writer_folder(const CommitKey& key, uint64_t generation) {
  return step_folder(key.step) + "c" + padded(key.claim, 8) + "-g" + std::to_string(generation) +
         "/";
}

}  // namespace

std::string owner_name(uint64_t claim) {
  return std::string(kOwnerFolder) + "c" + padded(claim, 8);
}

std::string commit_name(const CommitKey& key) {
  return std::string(kCommitFolder) + "s" + padded(key.step, 12) + "-c" + padded(key.claim, 8);
}

std::string step_folder(uint64_t step) {
  return std::string(kDataFolder) + "s" + padded(step, 12) + "/";
}

std::string part_name(const CommitKey& key, uint64_t generation, uint32_t node) {
  return writer_folder(key, generation) + "n" + padded(node, 5) + ".part";
}

std::string data_name(const CommitKey& key, uint64_t generation, uint32_t node, uint32_t index) {
  return writer_folder(key, generation) + "n" + padded(node, 5) + "-" + padded(index, 3) +
         ".chunks";
}

std::optional<uint64_t> parse_owner(std::string_view path) {
  uint64_t claim = 0;
  std::string_view rest = path;
  if (!take(rest, kOwnerFolder) || !take(rest, "c") || !take_number(rest, claim))
    return std::nullopt;
  if (claim > kClaimMax || owner_name(claim) != path) return std::nullopt;
  return claim;
}

std::optional<CommitKey> parse_commit(std::string_view path) {
  CommitKey key;
  std::string_view rest = path;
  const bool parsed = take(rest, kCommitFolder) && take(rest, "s") && take_number(rest, key.step) &&
                      take(rest, "-c") && take_number(rest, key.claim);
  if (!parsed || commit_name(key) != path) return std::nullopt;
  return key;
}

std::optional<CommitKey> parse_data(std::string_view path) {
  CommitKey key;
  uint64_t generation = 0;
  uint32_t node = 0;
  uint32_t index = 0;
  std::string_view rest = path;
  const bool parsed = take(rest, kDataFolder) && take(rest, "s") && take_number(rest, key.step) &&
                      take(rest, "/c") && take_number(rest, key.claim) && take(rest, "-g") &&
                      take_number(rest, generation) && take(rest, "/n") && take_number(rest, node);
  if (!parsed) return std::nullopt;
  if (rest == ".part" && part_name(key, generation, node) == path) return key;
  if (take(rest, "-") && take_number(rest, index) &&
      data_name(key, generation, node, index) == path) {
    return key;
  }
  return std::nullopt;
}

}  // namespace convoy::ckpt
