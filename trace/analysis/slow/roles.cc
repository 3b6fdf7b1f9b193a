#include "trace/analysis/slow/roles.h"

#include <algorithm>
#include <map>

namespace convoy::trace::slow {
namespace {

constexpr size_t kPeersMin = 3;  // of two, nobody knows which one is slow

bool is_replica_dimension(const std::string& name) {
  return name == "dp" || name == "ep";
}

}  // namespace

std::vector<std::vector<uint32_t>> Roles::classes(const std::vector<std::string>& but, bool invert,
                                                  std::vector<uint32_t>& of) const {
  std::map<uint32_t, uint32_t> number;
  std::vector<std::vector<uint32_t>> found;
  for (uint32_t rank = 0; rank < of.size(); ++rank) {
    uint32_t key = 0;
    for (size_t d = 0; d < mesh_.size(); ++d) {
      const bool named = std::find(but.begin(), but.end(), mesh_[d].name) != but.end();
      if (named == invert) key += coordinate(rank, d) * stride_[d];
    }
    const auto [at, is_new] = number.emplace(key, static_cast<uint32_t>(found.size()));
    if (is_new) found.emplace_back();
    found[at->second].push_back(rank);
    of[rank] = at->second;
  }
  return found;
}

Roles::Roles(const JobInfo& job) : cohort_(job.world_size, 0), replica_(job.world_size, 0) {
  uint64_t product = 1;
  for (const Dimension& d : job.mesh) {
    mesh_.push_back(d);
    stride_.push_back(static_cast<uint32_t>(product));
    product *= std::max(d.size, 1U);
    if (product > job.world_size) break;
  }
  // A mesh that does not fit says nothing.
  if (product != job.world_size) mesh_.clear(), stride_.clear();
  for (size_t d = 0; d < mesh_.size(); ++d) {
    if (mesh_[d].name == "pp" && mesh_[d].size > 1) stage_at_ = d, stages_ = mesh_[d].size;
  }
  replicas_ = static_cast<uint32_t>(classes({"tp", "cp", "pp"}, false, replica_).size());
  if (mesh_.empty()) {
    for (uint32_t r = 0; r < job.world_size; ++r) replica_[r] = r;
    replicas_ = job.world_size;
  }
  cohorts_ = classes({"dp", "ep"}, false, cohort_);
  const auto too_small = [](const auto& c) { return c.size() < kPeersMin; };
  if (std::any_of(cohorts_.begin(), cohorts_.end(), too_small)) {
    cohorts_ = classes({"pp"}, true, cohort_);
  }
  if (std::any_of(cohorts_.begin(), cohorts_.end(), too_small)) {
    cohorts_.clear();
    std::fill(cohort_.begin(), cohort_.end(), kNone);
  }
}

uint32_t Roles::difference(uint32_t a, uint32_t b) const {
  if (mesh_.empty()) return 1;
  uint32_t bits = 0;
  for (size_t d = 0; d < mesh_.size() && d < 32; ++d) {
    if (coordinate(a, d) != coordinate(b, d)) bits |= 1U << d;
  }
  return bits;
}

std::string Roles::describe(uint32_t rank) const {
  std::string text = "rank " + std::to_string(rank);
  std::string where;
  for (size_t d = mesh_.size(); d-- > 0;) {
    if (mesh_[d].size <= 1 || is_replica_dimension(mesh_[d].name)) continue;
    where +=
        (where.empty() ? " (" : ", ") + mesh_[d].name + " " + std::to_string(coordinate(rank, d));
  }
  return where.empty() ? text : text + where + ")";
}

}  // namespace convoy::trace::slow
