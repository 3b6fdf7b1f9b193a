// A libnvidia-ml.so.1 with two GPUs: the second has a memory error, a bad row, and is slowed down
// by heat; a third can't be reached. Only what the doctor calls.
namespace {

int healthy = 0, broken = 1;

}  // namespace

extern "C" {

int nvmlInit_v2() {
  return 0;
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 3;
  return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  constexpr int kGpuIsLost = 15;
  *device = index == 0 ? &healthy : &broken;
  return index < 2 ? 0 : kGpuIsLost;
}

int nvmlDeviceGetTotalEccErrors(void* device, int, int, unsigned long long* errors) {
  *errors = device == &broken ? 2 : 0;
  return 0;
}

int nvmlDeviceGetRemappedRows(void* device, unsigned* corrected, unsigned* uncorrected,
                              unsigned* pending, unsigned* failed) {
  *corrected = *uncorrected = *failed = 0;
  *pending = device == &broken ? 1 : 0;
  return 0;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
  *reasons = device == &broken ? 0x40 : 0x1;  // heat; idle
  return 0;
}

int nvmlDeviceGetTemperature(void* device, int, unsigned* celsius) {
  *celsius = device == &broken ? 91 : 40;
  return 0;
}

int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  memory[0] = 80ULL << 30, memory[1] = 79ULL << 30, memory[2] = 1ULL << 29;
  return 0;
}
}
