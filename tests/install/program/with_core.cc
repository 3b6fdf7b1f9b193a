// The torch-free library: two lines of a mesh.
#include <convoy/mesh/mesh.h>

#include <iostream>

int main() {
  const auto mesh = convoy::Mesh::parse("tp=2,dp=*", 8);
  std::cout << mesh->to_string() << " " << mesh->group_name({"tp"}, 5) << "\n";
  return mesh->size("dp") == 4 ? 0 : 1;
}
