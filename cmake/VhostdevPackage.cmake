# SPDX-License-Identifier: Apache-2.0
#
# Debian packages by "cpack" in the build folder; ./run package does it all.
# What is packaged is what this build made, so configure it with
# CMAKE_INSTALL_PREFIX=/usr (the preset "release" does).

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "The vhostdev developers <vhostdev@localhost>")
# Else it would become the first line of every package's description.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_OUTPUT_FILE_PREFIX ${PROJECT_BINARY_DIR}/packages)
set(CPACK_STRIP_FILES ON)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/strip-archives.cmake)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
    WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL runtime dev tools)
if(NOT TARGET vhostctl)
  list(REMOVE_ITEM CPACK_COMPONENTS_ALL tools)
endif()

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# What is linked with the shared library depends on its package.
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)

set(soversion ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME libvhostdev${soversion})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_RUNTIME_DESCRIPTION
    "vhost front-end for virtual machine monitors - shared library
Hands the virtqueues of a virtual machine to a vhost-user process, to the
kernel or to vDPA hardware, and takes them back without losing a request.

This package contains the shared library.")

set(CPACK_DEBIAN_DEV_PACKAGE_NAME libvhostdev-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
# Abseil's ABI changes with every release: the version compiled with.
string(CONCAT CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
              "libvhostdev${soversion} (= ${PROJECT_VERSION}), libabsl-dev")
if(absl_VERSION)
  string(APPEND CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
         " (>= ${absl_VERSION}), libabsl${absl_VERSION}")
endif()
if(VHOSTDEV_GLIB)
  string(APPEND CPACK_DEBIAN_DEV_PACKAGE_DEPENDS ", libglib2.0-dev")
endif()
if(VHOSTDEV_FDT)
  string(APPEND CPACK_DEBIAN_DEV_PACKAGE_DEPENDS ", libfdt-dev")
endif()
set(CPACK_DEBIAN_DEV_DESCRIPTION
    "vhost front-end for virtual machine monitors - development files
Headers, the static library, CMake and pkg-config files of libvhostdev, and
the fakes and the model back-end to test a virtual machine monitor with.")

set(CPACK_DEBIAN_TOOLS_PACKAGE_NAME vhostdev-tools)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_TOOLS_DESCRIPTION
    "tools for vhost-user back-ends
vhostctl connects to a vhost-user back-end, shows what it offers, and reads,
writes and verifies its disks without a virtual machine.

minivm is a small virtual machine monitor whose guest verifies its disks and
network devices while the machine is paused, its memory changes and its
back-ends die.

vhost-model-blk is a vhost-user disk written from the specification, strict
and slow on request, to test front-ends with.")

foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} upper)
  install(
    FILES cmake/copyright
    DESTINATION
      ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME}
    COMPONENT ${component})
endforeach()

include(CPack)
