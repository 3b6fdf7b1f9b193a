// Owns the precompiled headers of the test programs, which only a program can share with programs
// (ConvoyTest.cmake).
int main() {
  return 0;
}
