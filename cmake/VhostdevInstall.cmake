# SPDX-License-Identifier: Apache-2.0
#
# find_package(vhostdev) for an embedder: vhostdev::vhostdev, vhostdev::testing.

include(CMakePackageConfigHelpers)
set(vhostdev_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/vhostdev)

set(vhostdev_targets vhostdev)
if(TARGET vhostdev_testing)
  list(APPEND vhostdev_targets vhostdev_testing)
endif()
install(
  TARGETS ${vhostdev_targets}
  EXPORT vhostdev-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(
  EXPORT vhostdev-targets
  NAMESPACE vhostdev::
  DESTINATION ${vhostdev_config_dir})

configure_package_config_file(
  cmake/vhostdev-config.cmake.in
  ${PROJECT_BINARY_DIR}/vhostdev-config.cmake
  INSTALL_DESTINATION ${vhostdev_config_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/vhostdev-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/vhostdev-config.cmake
              ${PROJECT_BINARY_DIR}/vhostdev-config-version.cmake
        DESTINATION ${vhostdev_config_dir})
