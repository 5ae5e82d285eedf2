# SPDX-License-Identifier: Apache-2.0
#
# What an embedder finds: find_package(vhostdev CONFIG) with vhostdev::vhostdev
# and vhostdev::testing, and pkg-config's vhostdev and vhostdev-testing.
#
# Components: runtime (the shared library), dev, tools.

include(CMakePackageConfigHelpers)
set(vhostdev_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/vhostdev)
set(vhostdev_pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Static and shared library have one name, vhostdev::vhostdev, in two files;
# vhostdev-config.cmake chooses.
function(_vhostdev_install target)
  get_target_property(type ${target} TYPE)
  set(export vhostdev-static-targets)
  if(type STREQUAL SHARED_LIBRARY)
    set(export vhostdev-shared-targets)
  endif()
  install(
    TARGETS ${target}
    EXPORT ${export}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
            COMPONENT runtime
            NAMELINK_COMPONENT dev
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
  install(
    EXPORT ${export}
    NAMESPACE vhostdev::
    DESTINATION ${vhostdev_config_dir}
    COMPONENT dev)
endfunction()

_vhostdev_install(vhostdev)
if(TARGET vhostdev_other)
  _vhostdev_install(vhostdev_other)
endif()
if(TARGET vhostdev_testing)
  install(
    TARGETS vhostdev_testing
    EXPORT vhostdev-testing-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
    FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
  install(
    EXPORT vhostdev-testing-targets
    NAMESPACE vhostdev::
    DESTINATION ${vhostdev_config_dir}
    COMPONENT dev)
endif()

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
        DESTINATION ${vhostdev_config_dir}
        COMPONENT dev)

# absl_status = 20220623, absl_strings = 20220623, ...
function(_vhostdev_pc_modules out)
  set(modules ${ARGN})
  list(TRANSFORM modules PREPEND absl_)
  if(absl_VERSION)
    list(TRANSFORM modules APPEND " = ${absl_VERSION}")
  endif()
  list(JOIN modules ", " modules)
  set(${out} ${modules} PARENT_SCOPE)
endfunction()

# The files find the prefix from where they lie.
file(RELATIVE_PATH vhostdev_pc_prefix /${vhostdev_pc_dir} /)
string(REGEX REPLACE "/$" "" vhostdev_pc_prefix "${vhostdev_pc_prefix}")
_vhostdev_pc_modules(vhostdev_pc_requires ${VHOSTDEV_ABSL})
_vhostdev_pc_modules(vhostdev_pc_private ${VHOSTDEV_ABSL_PRIVATE})
if(VHOSTDEV_GLIB)
  string(APPEND vhostdev_pc_private ", glib-2.0")
endif()
# libfdt has no pkg-config file of its own.
set(vhostdev_pc_libs "${CMAKE_THREAD_LIBS_INIT}")
if(VHOSTDEV_FDT)
  string(APPEND vhostdev_pc_libs " -lfdt")
endif()
set(vhostdev_pc_files vhostdev.pc)
if(TARGET vhostdev_testing)
  list(APPEND vhostdev_pc_files vhostdev-testing.pc)
endif()
foreach(file IN LISTS vhostdev_pc_files)
  configure_file(cmake/${file}.in ${PROJECT_BINARY_DIR}/${file} @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${file} DESTINATION ${vhostdev_pc_dir}
          COMPONENT dev)
endforeach()
