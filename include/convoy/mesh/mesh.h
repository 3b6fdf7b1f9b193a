#pragma once

#include <convoy/base/status.h>

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace convoy {

// A MeshDim's size that Mesh works out from the number of ranks; `*` in text.
inline constexpr int kInferSize = -1;

// One dimension of a mesh. Names: a lower-case letter, then letters, digits or '_' ("tp", "dp2").
struct MeshDim {
  std::string name;
  int size = 1;
  bool operator==(const MeshDim&) const = default;
};

// The ranks 0 … size()-1 of a job, arranged along named dimensions. A small immutable value: copy
// it freely; every method may be called from any thread and none blocks.
//
// Rank order. Dimensions are kept innermost first: along dims()[0] neighbours differ by 1 in rank,
// so launchers put them on the same node. The order follows the topology and not the order of the
// text: tp, cp, ep, then other names (alphabetically), dp, pp. The more often and the more bytes a
// dimension exchanges, the nearer its ranks: tp talks several times a layer with nothing to hide
// behind, cp and ep once or twice a layer, dp once a step and overlapped, and pp sends only one
// activation a micro-batch from point to point, which suits the slowest links. Another order can be
// given: `order=pp-tp-dp` in text, or `order` of create(), innermost first.
//
// A name that the mesh doesn't have stands for a dimension of size 1, so that model code reads the
// same on 1 rank and on 64. Ranks and coordinates out of range are broken invariants.
class Mesh {
 public:
  // A mesh of one rank without dimensions.
  Mesh() = default;

  // "tp=2,pp=2,dp=2", in any order. One size may be `*` (`dp=*`): it becomes world_size divided by
  // the others; a dimension that is not named is not inferred. `order=tp-dp-pp` sets the rank
  // order, innermost first, and names every dimension once. Empty text is a mesh of one rank.
  // kInvalidArgument names the fault and how to mend it: bad syntax, repeated names, sizes below 1,
  // sizes that do not multiply to world_size, an order that does not fit.
  static Result<Mesh> parse(std::string_view text, int world_size);
  // The same from parts; `order` empty means the topology order.
  static Result<Mesh> create(std::vector<MeshDim> dims, int world_size,
                             std::vector<std::string> order = {});

  // Number of ranks.
  int size() const { return size_; }
  // Ranks along `name`; 1 when absent.
  int size(std::string_view name) const;
  bool has(std::string_view name) const;
  // Innermost first. Dimensions of size 1 that were named are kept.
  std::span<const MeshDim> dims() const { return dims_; }
  std::vector<std::string> names() const;

  // Position of `rank` along `name`: 0 … size(name)-1; 0 when absent.
  int coordinate(int rank, std::string_view name) const;
  // All coordinates of `rank`, in the order of dims().
  std::vector<int> coordinates(int rank) const;
  // The inverse of coordinates().
  int rank_of(std::span<const int> coordinates) const;
  // The rank at the named coordinates; those not named are 0.
  int rank_of(std::span<const std::pair<std::string_view, int>> coordinates) const;
  int rank_of(std::initializer_list<std::pair<std::string_view, int>> coordinates) const {
    return rank_of(std::span(coordinates.begin(), coordinates.size()));
  }
  // The rank that differs from `rank` only in its coordinate along `name`.
  int with_coordinate(int rank, std::string_view name, int coordinate) const;

  // The ranks that differ from `rank` only along `names`, ascending; that is, ordered by their
  // coordinates along `names`, the innermost changing fastest. Contains `rank`.
  std::vector<int> group_of(int rank, std::span<const std::string_view> names) const;
  std::vector<int> group_of(int rank, std::initializer_list<std::string_view> names) const {
    return group_of(rank, std::span(names.begin(), names.size()));
  }
  // All groups along `names`, ordered by their first ranks: every rank is in exactly one.
  std::vector<std::vector<int>> groups(std::span<const std::string_view> names) const;
  std::vector<std::vector<int>> groups(std::initializer_list<std::string_view> names) const {
    return groups(std::span(names.begin(), names.size()));
  }
  // Where rank's group stands in groups(names).
  int group_index(std::span<const std::string_view> names, int rank) const;
  // A name for people and for rendezvous keys, equal on all ranks of the group and unlike that of
  // every other group: "tp[0]", "tp×dp[1]" (names innermost first, then group_index).
  std::string group_name(std::span<const std::string_view> names, int rank) const;
  std::string group_name(std::initializer_list<std::string_view> names, int rank) const {
    return group_name(std::span(names.begin(), names.size()), rank);
  }

  // "tp=2,dp=2,pp=2", innermost first; parse() reads it back. If the order isn't the topology order
  // it ends in ",order=…".
  std::string to_string() const;
  bool operator==(const Mesh&) const = default;

 private:
  std::vector<MeshDim> dims_;  // innermost first
  int size_ = 1;
};

}  // namespace convoy
