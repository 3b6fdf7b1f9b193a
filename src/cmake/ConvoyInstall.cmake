# cmake --install, and find_package(convoy) for programs outside of this tree.
include(CMakePackageConfigHelpers)
set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/convoy)
set(_targets convoy_core)
if(CONVOY_TORCH)
  list(APPEND _targets convoy)
endif()
# Found beside each other, and in a wheel beside torch's.
set_target_properties(${_targets} PROPERTIES INSTALL_RPATH "$ORIGIN;$ORIGIN/../../torch/lib")
if(TARGET convoy_nccl)
  set_target_properties(convoy_nccl PROPERTIES INSTALL_RPATH "$ORIGIN;$ORIGIN/../../torch/lib")
  install(TARGETS convoy_nccl LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(TARGETS ${_targets} EXPORT convoy_targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/convoy DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT convoy_targets NAMESPACE convoy:: DESTINATION ${_package})
configure_package_config_file(src/cmake/convoy-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/convoy-config.cmake
                              INSTALL_DESTINATION ${_package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/convoy-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/convoy-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/convoy-config-version.cmake
              src/cmake/FindConvoyTorch.cmake
        DESTINATION ${_package})
