// What torch imports and the stand-in does not have: each call is a finding and fails, so that
// nothing succeeds silently. Declared without arguments, which the calling convention allows; hence
// no CUDA header here.
namespace convoy::standin {
int unsupported_call(const char* name);
}  // namespace convoy::standin

#define CONVOY_UNSUPPORTED(name)                     \
  extern "C" int name() {                            \
    return convoy::standin::unsupported_call(#name); \
  }

// Graphs.
CONVOY_UNSUPPORTED(cudaStreamBeginCapture)
CONVOY_UNSUPPORTED(cudaStreamBeginCaptureToGraph)
CONVOY_UNSUPPORTED(cudaStreamEndCapture)
CONVOY_UNSUPPORTED(cudaStreamUpdateCaptureDependencies)
CONVOY_UNSUPPORTED(cudaGraphAddNode)
CONVOY_UNSUPPORTED(cudaGraphConditionalHandleCreate)
CONVOY_UNSUPPORTED(cudaGraphDestroy)
CONVOY_UNSUPPORTED(cudaGraphExecDestroy)
CONVOY_UNSUPPORTED(cudaGraphGetNodes)
CONVOY_UNSUPPORTED(cudaGraphInstantiate)
CONVOY_UNSUPPORTED(cudaGraphInstantiateWithFlags)
CONVOY_UNSUPPORTED(cudaGraphLaunch)
CONVOY_UNSUPPORTED(cudaGraphNodeGetDependencies)
CONVOY_UNSUPPORTED(cudaGraphRetainUserObject)
CONVOY_UNSUPPORTED(cudaUserObjectCreate)
CONVOY_UNSUPPORTED(cudaUserObjectRelease)
CONVOY_UNSUPPORTED(cudaDeviceGetGraphMemAttribute)
CONVOY_UNSUPPORTED(cudaDeviceSetGraphMemAttribute)
// Memory pools as objects (cudaMallocAsync works), managed memory.
CONVOY_UNSUPPORTED(cudaDeviceGetDefaultMemPool)
CONVOY_UNSUPPORTED(cudaMemPoolGetAttribute)
CONVOY_UNSUPPORTED(cudaMemPoolSetAccess)
CONVOY_UNSUPPORTED(cudaMemPoolSetAttribute)
CONVOY_UNSUPPORTED(cudaMemPoolTrimTo)
CONVOY_UNSUPPORTED(cudaMallocManaged)
// Code and variables of the device.
CONVOY_UNSUPPORTED(cudaGetSymbolAddress)
CONVOY_UNSUPPORTED(cudaMemcpyToSymbol)
CONVOY_UNSUPPORTED(cudaLibraryGetGlobal)
CONVOY_UNSUPPORTED(cudaLibraryGetKernel)
CONVOY_UNSUPPORTED(cudaLibraryGetKernelCount)
CONVOY_UNSUPPORTED(cudaLibraryGetManaged)
CONVOY_UNSUPPORTED(cudaLibraryGetUnifiedFunction)
CONVOY_UNSUPPORTED(cudaLibraryLoadData)
CONVOY_UNSUPPORTED(cudaLibraryLoadFromFile)
CONVOY_UNSUPPORTED(cudaLibraryUnload)
