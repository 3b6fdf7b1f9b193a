find_package(Protobuf QUIET)
if(NOT TARGET protobuf::libprotobuf-lite OR NOT TARGET protobuf::protoc)
  message(FATAL_ERROR "Convoy needs protobuf (Debian: libprotobuf-dev protobuf-compiler). Run `make deps`, or install it.")
endif()
# convoy_proto(NAME file.proto [library]): its code as part of convoy_core, or of the library. The generated code lies under its path in the source tree,
# and is included so: "ckpt/manifest/records.pb.h".
set(CONVOY_GENERATED ${PROJECT_BINARY_DIR}/generated)
add_custom_target(convoy_generated)  # the linter builds this alone: it needs the headers, not the library
function(convoy_proto name file)
  file(RELATIVE_PATH source ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  string(REGEX REPLACE "\\.proto$" "" stem ${CONVOY_GENERATED}/${source})
  file(MAKE_DIRECTORY ${CONVOY_GENERATED})
  add_custom_command(
    OUTPUT ${stem}.pb.cc ${stem}.pb.h
    COMMAND protobuf::protoc --proto_path=${PROJECT_SOURCE_DIR} --cpp_out=${CONVOY_GENERATED} ${source}
    DEPENDS ${file} VERBATIM)
  add_custom_target(${name}_generated DEPENDS ${stem}.pb.cc)
  add_dependencies(convoy_generated ${name}_generated)
  # An object library of its own keeps the generator's code away from our warnings.
  add_library(${name} OBJECT ${stem}.pb.cc)
  add_dependencies(${name} ${name}_generated)
  target_include_directories(${name} SYSTEM PUBLIC ${CONVOY_GENERATED})
  target_link_libraries(${name} PUBLIC protobuf::libprotobuf-lite)
  set(library ${ARGN})
  if(NOT library)
    set(library convoy_core)
  endif()
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()
