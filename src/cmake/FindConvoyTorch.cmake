# libtorch of the PyPI wheel, without torch's own find_package, which demands nvcc with a CUDA build.
# Looks at CONVOY_TORCH_DIR (the wheel's torch/ folder), else asks Python3's interpreter (-DPython3_EXECUTABLE=…,
# or CONVOY_VENV in the environment). Defines convoy::torch (CPU), convoy::torch_cuda (for comm/nccl only) and
# convoy::torch_python (for Python extensions that take tensors or groups).
set(CONVOY_TORCH_VERSION "2.15" CACHE INTERNAL "the libtorch whose c10d interface Convoy implements")

# CONVOY_VENV wins over what an earlier configure found: tests run with this interpreter and need its torch.
if(DEFINED ENV{CONVOY_VENV})
  set(Python3_EXECUTABLE "$ENV{CONVOY_VENV}/bin/python" CACHE FILEPATH "Python with torch" FORCE)
elseif(NOT Python3_EXECUTABLE)
  find_program(Python3_EXECUTABLE NAMES python3)
endif()
if(NOT CONVOY_TORCH_DIR)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE _torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(CONVOY_TORCH_DIR "${_torch_dir}" CACHE PATH "torch/ folder of the installed wheel" FORCE)
endif()

set(_header "${CONVOY_TORCH_DIR}/include/torch/headeronly/version.h")
if(NOT EXISTS "${_header}")
  set(_header "${CONVOY_TORCH_DIR}/include/torch/version.h")
endif()
if(EXISTS "${CONVOY_TORCH_DIR}/version.py")
  file(STRINGS "${CONVOY_TORCH_DIR}/version.py" _line REGEX "^__version__")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" ConvoyTorch_VERSION "${_line}")
  if(NOT ConvoyTorch_VERSION MATCHES "^2\\.15\\.")
    message(FATAL_ERROR
      "Convoy needs libtorch ${CONVOY_TORCH_VERSION} (its c10d hooks and reconfigure interface), but ${CONVOY_TORCH_DIR} "
      "holds ${ConvoyTorch_VERSION}. Install torch==2.15.0 in that environment, or run `make deps` and let the build use its venv.")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ConvoyTorch REQUIRED_VARS CONVOY_TORCH_DIR VERSION_VAR ConvoyTorch_VERSION
  REASON_FAILURE_MESSAGE "No torch in ${Python3_EXECUTABLE}. Run `make deps`, or pass -DCONVOY_TORCH_DIR=…/site-packages/torch.")

if(ConvoyTorch_FOUND AND NOT TARGET convoy::torch)
  get_filename_component(_site "${CONVOY_TORCH_DIR}" DIRECTORY)
  set(_nvidia "${_site}/nvidia/cu13/lib")
  add_library(convoy::torch INTERFACE IMPORTED GLOBAL)
  set_target_properties(convoy::torch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${CONVOY_TORCH_DIR}/include;${CONVOY_TORCH_DIR}/include/torch/csrc/api/include"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${CONVOY_TORCH_DIR}/include;${CONVOY_TORCH_DIR}/include/torch/csrc/api/include"
    INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED"
    INTERFACE_LINK_LIBRARIES "${CONVOY_TORCH_DIR}/lib/libtorch_cpu.so;${CONVOY_TORCH_DIR}/lib/libc10.so"
    INTERFACE_LINK_OPTIONS "-Wl,-rpath,${CONVOY_TORCH_DIR}/lib;-Wl,-rpath,${_nvidia};-Wl,-rpath-link,${_nvidia}")
  add_library(convoy::torch_python INTERFACE IMPORTED GLOBAL)
  set_target_properties(convoy::torch_python PROPERTIES
    # pybind11's hidden visibility meets classes that are exported.
    INTERFACE_COMPILE_OPTIONS "-Wno-attributes"
    INTERFACE_LINK_LIBRARIES "convoy::torch;${CONVOY_TORCH_DIR}/lib/libtorch_python.so")
  add_library(convoy::torch_cuda INTERFACE IMPORTED GLOBAL)
  set_target_properties(convoy::torch_cuda PROPERTIES
    INTERFACE_LINK_LIBRARIES "convoy::torch;${CONVOY_TORCH_DIR}/lib/libtorch_cuda.so;${CONVOY_TORCH_DIR}/lib/libc10_cuda.so"
    INTERFACE_LINK_OPTIONS "-Wl,-rpath-link,${_site}/nvidia/nccl/lib")
endif()
