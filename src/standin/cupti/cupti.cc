// torch's profiler asks CUPTI for what GPUs do; the real library looks into the real driver and
// would recurse without end. This one says that it can't: profiles have the host's part, and the
// profiler's own warning. Declared without arguments, which the calling convention allows; hence no
// header here.
namespace {

constexpr int kNotSupported = 27;  // CUPTI_ERROR_NOT_SUPPORTED
constexpr unsigned kVersion = 130200;

}  // namespace

#define CONVOY_NOT_SUPPORTED(name) \
  extern "C" int name() {          \
    return kNotSupported;          \
  }

CONVOY_NOT_SUPPORTED(cuptiActivityDisable)
CONVOY_NOT_SUPPORTED(cuptiActivityEnable)
CONVOY_NOT_SUPPORTED(cuptiActivityEnableCudaEventDeviceTimestamps)
CONVOY_NOT_SUPPORTED(cuptiActivityEnableDriverApi)
CONVOY_NOT_SUPPORTED(cuptiActivityEnableRuntimeApi)
CONVOY_NOT_SUPPORTED(cuptiActivityFlushAll)
CONVOY_NOT_SUPPORTED(cuptiActivityGetNextRecord)
CONVOY_NOT_SUPPORTED(cuptiActivityGetNumDroppedRecords)
CONVOY_NOT_SUPPORTED(cuptiActivityPopExternalCorrelationId)
CONVOY_NOT_SUPPORTED(cuptiActivityPushExternalCorrelationId)
CONVOY_NOT_SUPPORTED(cuptiActivityRegisterCallbacks)
CONVOY_NOT_SUPPORTED(cuptiActivityRegisterTimestampCallback)
CONVOY_NOT_SUPPORTED(cuptiActivitySetAttribute)
CONVOY_NOT_SUPPORTED(cuptiEnableCallback)
CONVOY_NOT_SUPPORTED(cuptiEnableDomain)
CONVOY_NOT_SUPPORTED(cuptiFinalize)
CONVOY_NOT_SUPPORTED(cuptiGetCallbackName)
CONVOY_NOT_SUPPORTED(cuptiSubscribe)
CONVOY_NOT_SUPPORTED(cuptiUnsubscribe)

extern "C" int cuptiGetVersion(unsigned* version) {
  *version = kVersion;
  return 0;
}

extern "C" int cuptiGetResultString(int, const char** text) {
  *text = "the stand-in for CUDA has no profiler";
  return 0;
}
