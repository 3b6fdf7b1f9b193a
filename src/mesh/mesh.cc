// How names, coordinates and ranks relate: a rank is a mixed-radix number whose digits are the
// coordinates, the innermost dimension last. Also decides which mesh texts are accepted, and words
// the errors for the others. Knows nothing of tensors (shard_spec.cc) or of communication.
#include <convoy/mesh/mesh.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <numeric>
#include <optional>

namespace convoy {
namespace {

constexpr int kMaxRanks = 1 << 24;
constexpr std::string_view kOrderKey = "order";
constexpr std::string_view kSyntax =
    "Write it like tp=2,pp=2,dp=2 (one size may be *, as in dp=*).";

// Place of a name in the topology order, innermost first.
int topology_place(std::string_view name) {
  constexpr std::array<std::string_view, 3> kInner = {"tp", "cp", "ep"};
  for (size_t i = 0; i < kInner.size(); ++i) {
    if (name == kInner[i]) return static_cast<int>(i);
  }
  if (name == "dp") return 4;
  if (name == "pp") return 5;
  return 3;
}

void sort_by_topology(std::vector<MeshDim>& dims) {
  std::sort(dims.begin(), dims.end(), [](const MeshDim& a, const MeshDim& b) {
    return std::pair(topology_place(a.name), std::string_view(a.name)) <
           std::pair(topology_place(b.name), std::string_view(b.name));
  });
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

bool valid_name(std::string_view name) {
  if (name.empty() || name == kOrderKey) return false;
  if (name[0] < 'a' || name[0] > 'z') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::string join(const std::vector<MeshDim>& dims) {
  std::string text;
  for (const MeshDim& dim : dims) {
    if (!text.empty()) text += ',';
    text += dim.name + '=' + (dim.size == kInferSize ? "*" : std::to_string(dim.size));
  }
  return text;
}

std::string quote(std::string_view text) {
  return '"' + std::string(text) + '"';
}

Status invalid(const std::vector<MeshDim>& dims, const std::string& what) {
  return {Code::kInvalidArgument, "mesh " + quote(join(dims)) + ": " + what};
}

// Product of all sizes but the inferred one; kMaxRanks + 1 stands for anything larger.
int64_t product(const std::vector<MeshDim>& dims) {
  int64_t result = 1;
  for (const MeshDim& dim : dims) {
    if (dim.size != kInferSize) result = std::min<int64_t>(result * dim.size, kMaxRanks + 1);
  }
  return result;
}

std::string divisors(int number) {
  std::string text;
  for (int i = 1; i <= number; ++i) {
    if (number % i == 0) text += (text.empty() ? "" : ", ") + std::to_string(i);
  }
  return text;
}

// What to write instead of sizes that do not multiply to world_size.
std::string mend(const std::vector<MeshDim>& dims, int64_t total, int world_size) {
  std::string fits;
  for (const MeshDim& dim : dims) {
    const int64_t others = total / dim.size;
    if (total <= kMaxRanks && world_size % others == 0) {
      fits += (fits.empty() ? "" : " or ") + dim.name + '=' + std::to_string(world_size / others);
    }
  }
  const bool has_dp =
      std::any_of(dims.begin(), dims.end(), [](const MeshDim& dim) { return dim.name == "dp"; });
  if (!has_dp && total <= kMaxRanks && world_size % total == 0) {
    fits = "dp=" + std::to_string(world_size / total) + " added" +
           (fits.empty() ? "" : ", or " + fits);
  }
  std::string text = total <= kMaxRanks ? "Start " + std::to_string(total) + " rank" +
                                              (total == 1 ? "" : "s") + ", or change the mesh: "
                                        : std::string("Change the mesh: ");
  if (fits.empty())
    return text + "each size has to divide the number of ranks (" + divisors(world_size) + ").";
  return text + fits + " would fit.";
}

Status check_dims(const std::vector<MeshDim>& dims) {
  int inferred = 0;
  for (size_t i = 0; i < dims.size(); ++i) {
    const MeshDim& dim = dims[i];
    if (!valid_name(dim.name)) {
      return invalid(dims, quote(dim.name) +
                               " can't name a dimension. A name is a lower-case letter followed by "
                               "letters, digits or '_', and not \"order\".");
    }
    for (size_t j = 0; j < i; ++j) {
      if (dims[j].name == dim.name) {
        return invalid(dims, "dimension " + dim.name + " is given twice. Name each one once.");
      }
    }
    if (dim.size == kInferSize) {
      if (++inferred > 1) {
        return invalid(dims, "more than one size is *. Only one can be inferred: give the others.");
      }
    } else if (dim.size < 1) {
      return invalid(dims, "size " + std::to_string(dim.size) + " of " + dim.name +
                               " is below 1. Use 1 (or leave " + dim.name +
                               " out) to switch it off.");
    }
  }
  return ok_status();
}

// Fills in the one size that is `*` and checks that the sizes multiply to world_size.
Status fit_to_world(std::vector<MeshDim>& dims, int world_size) {
  const int64_t total = product(dims);
  const auto inferred = std::find_if(dims.begin(), dims.end(),
                                     [](const MeshDim& dim) { return dim.size == kInferSize; });
  const std::string ranks = std::to_string(world_size) + (world_size == 1 ? " rank" : " ranks");
  const std::string number =
      total > kMaxRanks ? "more than " + std::to_string(kMaxRanks) : std::to_string(total);
  if (inferred != dims.end()) {
    if (world_size % total != 0) {
      return invalid(dims, inferred->name + " can't be inferred: the other sizes multiply to " +
                               number + ", which does not divide the job's " + ranks +
                               ". Start a multiple of " + number +
                               " ranks, or choose sizes that divide " + std::to_string(world_size) +
                               " (" + divisors(world_size) + ").");
    }
    inferred->size = static_cast<int>(world_size / total);
    return ok_status();
  }
  if (total == world_size) return ok_status();
  return invalid(dims, "its sizes multiply to " + number + ", but the job has " + ranks + ". " +
                           mend(dims, total, world_size));
}

// Sorts dims into `order`, which has to name each of them once.
Status apply_order(std::vector<MeshDim>& dims, const std::vector<std::string>& order) {
  std::vector<MeshDim> sorted;
  for (const std::string& name : order) {
    const auto matches = [&](const MeshDim& dim) { return dim.name == name; };
    const auto found = std::find_if(dims.begin(), dims.end(), matches);
    if (found == dims.end() || std::any_of(sorted.begin(), sorted.end(), matches)) {
      return invalid(dims, "its order names " + quote(name) +
                               (found == dims.end() ? ", which is not a dimension" : " twice") +
                               ". Name each dimension once, innermost first.");
    }
    sorted.push_back(*found);
  }
  if (sorted.size() != dims.size()) {
    return invalid(dims, "its order names " + std::to_string(sorted.size()) + " of " +
                             std::to_string(dims.size()) +
                             " dimensions. Name each dimension once, innermost first.");
  }
  dims = std::move(sorted);
  return ok_status();
}

// The size in `text`, or nothing if it is no number.
std::optional<int> parse_size(std::string_view text) {
  if (text == "*") return kInferSize;
  int size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (text.empty() || end != text.data() + text.size() || error != std::errc()) return {};
  return size == kInferSize ? 0 : size;  // "-1" is not a spelling of *
}

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Result<Mesh> Mesh::parse(std::string_view text, int world_size) {
  std::vector<MeshDim> dims;
  std::vector<std::string> order;
  bool ordered = false;
  const auto bad = [&](const std::string& what) {
    return Status(Code::kInvalidArgument, "mesh " + quote(text) + ": " + what);
  };
  if (!trim(text).empty()) {
    for (const std::string_view untrimmed : split(text, ',')) {
      const std::string_view part = trim(untrimmed);
      const size_t equals = part.find('=');
      if (equals == std::string_view::npos) {
        return bad(quote(part) + " is not of the form name=size. " + std::string(kSyntax));
      }
      const std::string_view name = trim(part.substr(0, equals));
      const std::string_view value = trim(part.substr(equals + 1));
      if (name == kOrderKey) {
        if (ordered) return bad("order is given twice. Give it once.");
        ordered = true;
        for (const std::string_view dim : split(value, '-')) order.emplace_back(trim(dim));
        continue;
      }
      const std::optional<int> size = parse_size(value);
      if (!size.has_value()) {
        return bad(quote(value) + " is not a size for " + quote(name) + ". " +
                   std::string(kSyntax));
      }
      dims.push_back({std::string(name), *size});
    }
  }
  return create(std::move(dims), world_size, std::move(order));
}

Result<Mesh> Mesh::create(
    std::vector<MeshDim> dims, int world_size,
    std::vector<std::string> order) {  // NOLINT(performance-unnecessary-value-param)
  if (world_size < 1 || world_size > kMaxRanks) {
    return invalid(dims, "a job can't have " + std::to_string(world_size) + " ranks. Use 1 to " +
                             std::to_string(kMaxRanks) + ".");
  }
  CONVOY_RETURN_IF_ERROR(check_dims(dims));
  CONVOY_RETURN_IF_ERROR(fit_to_world(dims, world_size));
  if (order.empty()) {
    sort_by_topology(dims);
  } else {
    CONVOY_RETURN_IF_ERROR(apply_order(dims, order));
  }
  Mesh mesh;
  mesh.dims_ = std::move(dims);
  mesh.size_ = world_size;
  return mesh;
}

int Mesh::size(std::string_view name) const {
  for (const MeshDim& dim : dims_) {
    if (dim.name == name) return dim.size;
  }
  return 1;
}

bool Mesh::has(std::string_view name) const {
  return std::any_of(dims_.begin(), dims_.end(),
                     [&](const MeshDim& dim) { return dim.name == name; });
}

std::vector<std::string> Mesh::names() const {
  std::vector<std::string> names;
  for (const MeshDim& dim : dims_) names.push_back(dim.name);
  return names;
}

int Mesh::coordinate(int rank, std::string_view name) const {
  CONVOY_CHECK(rank >= 0 && rank < size_, "rank " + std::to_string(rank) + " of " + to_string());
  for (const MeshDim& dim : dims_) {
    if (dim.name == name) return rank % dim.size;
    rank /= dim.size;
  }
  return 0;
}

std::vector<int> Mesh::coordinates(int rank) const {
  CONVOY_CHECK(rank >= 0 && rank < size_, "rank " + std::to_string(rank) + " of " + to_string());
  std::vector<int> coordinates;
  for (const MeshDim& dim : dims_) {
    coordinates.push_back(rank % dim.size);
    rank /= dim.size;
  }
  return coordinates;
}

int Mesh::rank_of(std::span<const int> coordinates) const {
  CONVOY_CHECK(coordinates.size() == dims_.size(), "one coordinate for each dimension");
  int rank = 0;
  for (size_t i = dims_.size(); i-- > 0;) {
    CONVOY_CHECK(coordinates[i] >= 0 && coordinates[i] < dims_[i].size,
                 dims_[i].name + " " + std::to_string(coordinates[i]) + " of " + to_string());
    rank = rank * dims_[i].size + coordinates[i];
  }
  return rank;
}

int Mesh::rank_of(std::span<const std::pair<std::string_view, int>> coordinates) const {
  int rank = 0;
  for (const auto& [name, coordinate] : coordinates) {
    rank = with_coordinate(rank, name, coordinate);
  }
  return rank;
}

int Mesh::with_coordinate(int rank, std::string_view name, int coordinate) const {
  const int from = this->coordinate(rank, name);
  CONVOY_CHECK(coordinate >= 0 && coordinate < size(name),
               std::string(name) + " " + std::to_string(coordinate) + " of " + to_string());
  int stride = 1;
  for (const MeshDim& dim : dims_) {
    if (dim.name == name) return rank + (coordinate - from) * stride;
    stride *= dim.size;
  }
  return rank;
}

std::vector<int> Mesh::group_of(int rank, std::span<const std::string_view> names) const {
  CONVOY_CHECK(rank >= 0 && rank < size_, "rank " + std::to_string(rank) + " of " + to_string());
  std::vector<int> offsets = {0};
  int first = rank;
  int stride = 1;
  for (const MeshDim& dim : dims_) {
    if (contains(names, dim.name)) {
      first -= rank / stride % dim.size * stride;
      const size_t inner = offsets.size();
      for (int i = 1; i < dim.size; ++i) {
        for (size_t j = 0; j < inner; ++j) offsets.push_back(offsets[j] + i * stride);
      }
    }
    stride *= dim.size;
  }
  for (int& offset : offsets) offset += first;
  return offsets;
}

std::vector<std::vector<int>> Mesh::groups(std::span<const std::string_view> names) const {
  std::vector<std::vector<int>> groups;
  for (int rank = 0; rank < size_; ++rank) {
    std::vector<int> group = group_of(rank, names);
    if (group.front() == rank) groups.push_back(std::move(group));
  }
  return groups;
}

int Mesh::group_index(std::span<const std::string_view> names, int rank) const {
  CONVOY_CHECK(rank >= 0 && rank < size_, "rank " + std::to_string(rank) + " of " + to_string());
  int index = 0;
  int radix = 1;
  for (const MeshDim& dim : dims_) {
    if (!contains(names, dim.name)) {
      index += rank % dim.size * radix;
      radix *= dim.size;
    }
    rank /= dim.size;
  }
  return index;
}

std::string Mesh::group_name(std::span<const std::string_view> names, int rank) const {
  std::vector<MeshDim> sorted;
  for (const MeshDim& dim : dims_) {
    if (contains(names, dim.name)) sorted.push_back(dim);
  }
  for (const std::string_view name : names) {  // absent ones too: callers expect to see them
    if (!has(name)) sorted.push_back({std::string(name), 1});
  }
  std::string text;
  for (const MeshDim& dim : sorted) text += (text.empty() ? "" : "×") + dim.name;
  if (text.empty()) text = "rank";
  return text + '[' + std::to_string(group_index(names, rank)) + ']';
}

std::string Mesh::to_string() const {
  std::vector<MeshDim> sorted = dims_;
  sort_by_topology(sorted);
  std::string text = join(dims_);
  if (sorted == dims_) return text;
  text += ",order=";
  for (const MeshDim& dim : dims_) text += (&dim == &dims_[0] ? "" : "-") + dim.name;
  return text;
}

}  // namespace convoy
