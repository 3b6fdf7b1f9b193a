# Compiler settings shared by all targets: warnings, sanitizers, ccache and mold where present.
add_library(convoy_warnings INTERFACE)
target_compile_options(convoy_warnings INTERFACE
  $<BUILD_INTERFACE:-Wall -Wextra -Wno-unused-parameter -Werror>
  # GCC 12 sees overlapping and endless copies in "literal" + std::string that are not there (its bug 105651); with precompiled
  # headers it tells of the standard library's, too.
  "$<BUILD_INTERFACE:$<$<CXX_COMPILER_ID:GNU>:-Wno-error=maybe-uninitialized;-Wno-restrict;-Wno-stringop-overflow;-Wno-stringop-overread;-Wno-array-bounds>>")

find_program(CONVOY_CCACHE ccache)
if(CONVOY_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The precompiled header is part of the hash through its content, not its time stamp. Paths below the source folder
  # count as relative, so that several checkouts and build folders (the wheel's) share what they compile.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CONVOY_CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-fpch-preprocess)
  endif()
endif()
find_program(CONVOY_MOLD mold)
if(CONVOY_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=mold)
endif()

# For code that is compiled more often than its speed matters, the tests' own and the command line: a third of a cold build
# would go into optimising it.
set(CONVOY_COLD_CODE -O1)

if(CONVOY_SANITIZE)
  set(CONVOY_COLD_CODE -O0)
  add_compile_options(-fsanitize=${CONVOY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CONVOY_SANITIZE})
endif()
