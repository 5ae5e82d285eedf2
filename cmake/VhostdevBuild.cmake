# SPDX-License-Identifier: Apache-2.0
#
# How this project is compiled: the flags, the rooms (one object library per
# folder of the library) and the one library target made of them.

include(GNUInstallDirs)
find_package(absl REQUIRED)
find_package(Threads REQUIRED)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  find_program(VHOSTDEV_CCACHE ccache)
  if(VHOSTDEV_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${VHOSTDEV_CCACHE})
  endif()
  # Links in a quarter of the time: virtio_test 0.9 s instead of 3.3 s.
  find_program(VHOSTDEV_LLD ld.lld)
  if(VHOSTDEV_LLD)
    add_link_options(-fuse-ld=lld)
  endif()
endif()

# What every file of ours is compiled with.  Not exported.
add_library(vhostdev_warnings INTERFACE)
target_compile_options(
  vhostdev_warnings
  INTERFACE -Wall
            -Wextra
            -Wpedantic
            -Wshadow
            -Wconversion
            -Wnon-virtual-dtor
            -Werror
            -fno-exceptions
            $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>)

# What every program of ours is linked with besides.
add_library(vhostdev_program INTERFACE)
target_link_libraries(vhostdev_program INTERFACE vhostdev_warnings)
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize=thread")
  include(VhostdevTsan)
endif()

# What the public headers need of Abseil, and what the sources need besides.
set(VHOSTDEV_ABSL any_invocable cord function_ref status statusor strings)
set(VHOSTDEV_ABSL_PRIVATE
    btree
    cleanup
    flat_hash_map
    flat_hash_set
    inlined_vector
    span
    str_format
    synchronization
    time)
list(TRANSFORM VHOSTDEV_ABSL PREPEND absl:: OUTPUT_VARIABLE absl_public)
list(TRANSFORM VHOSTDEV_ABSL_PRIVATE PREPEND absl:: OUTPUT_VARIABLE
                                                    absl_private)

# What every source of ours sees: the public headers and Abseil.
add_library(vhostdev_contract INTERFACE)
target_include_directories(vhostdev_contract
                           INTERFACE ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(vhostdev_contract INTERFACE ${absl_public} ${absl_private}
                                                  Threads::Threads)

# vhostdev_room(NAME <room>
#               SOURCES <file>...            the room's sources
#               [OPTION <VHOSTDEV_...>]      the option that leaves it out
#               [WHEN_OFF <file>...]         what answers kUnimplemented then
#               [LINKS <target>...])         libraries only this room uses
#
# Makes the object library vhostdev_<room> and adds it to vhostdev::vhostdev.
# A room includes its private headers from the top: "hw/virtio/x.h".
function(vhostdev_room)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;OPTION"
                        "SOURCES;WHEN_OFF;LINKS")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vhostdev_room: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  if(ARG_OPTION AND NOT ${ARG_OPTION})
    set(ARG_SOURCES ${ARG_WHEN_OFF})
    set(ARG_LINKS "")
  endif()
  if(NOT ARG_SOURCES)
    return()
  endif()
  set(room vhostdev_${ARG_NAME})
  add_library(${room} OBJECT ${ARG_SOURCES})
  target_include_directories(${room} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(
    ${room}
    PUBLIC vhostdev_contract ${ARG_LINKS}
    PRIVATE $<BUILD_INTERFACE:vhostdev_warnings>)
  set_property(GLOBAL APPEND PROPERTY VHOSTDEV_ROOMS ${room})
  set_property(GLOBAL APPEND PROPERTY VHOSTDEV_ROOM_LINKS ${ARG_LINKS})
endfunction()

# _vhostdev_library(TARGET [STATIC|SHARED]): the library of all rooms' objects.
function(_vhostdev_library target)
  get_property(rooms GLOBAL PROPERTY VHOSTDEV_ROOMS)
  get_property(links GLOBAL PROPERTY VHOSTDEV_ROOM_LINKS)
  file(GLOB headers CONFIGURE_DEPENDS
       ${PROJECT_SOURCE_DIR}/include/vhostdev/*.h)
  add_library(${target} ${ARGN})
  foreach(room IN LISTS rooms)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${room}>)
  endforeach()
  target_sources(
    ${target}
    PUBLIC FILE_SET
           HEADERS
           BASE_DIRS
           ${PROJECT_SOURCE_DIR}/include
           FILES
           ${headers})
  target_link_libraries(
    ${target}
    PUBLIC ${absl_public} Threads::Threads
    PRIVATE ${absl_private} ${links} $<BUILD_INTERFACE:vhostdev_warnings>)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(
    ${target}
    PROPERTIES LINKER_LANGUAGE CXX
               OUTPUT_NAME vhostdev
               EXPORT_NAME vhostdev
               VERSION ${PROJECT_VERSION}
               SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
endfunction()

# Adds the rooms' folders and makes vhostdev::vhostdev of them, which is static
# or shared as BUILD_SHARED_LIBS says.  With VHOSTDEV_BUILD_BOTH the same
# objects also become vhostdev_other, which is what vhostdev is not.
function(vhostdev_add_rooms)
  foreach(folder IN LISTS ARGN)
    add_subdirectory(${folder})
  endforeach()
  _vhostdev_library(vhostdev)
  add_library(vhostdev::vhostdev ALIAS vhostdev)
  set_target_properties(vhostdev PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  if(VHOSTDEV_BUILD_BOTH)
    if(BUILD_SHARED_LIBS)
      _vhostdev_library(vhostdev_other STATIC)
    else()
      _vhostdev_library(vhostdev_other SHARED)
    endif()
  endif()
endfunction()

# Parts of "all", for a build that needs no more.
add_custom_target(all_tools)
add_custom_target(all_tests)
add_custom_target(all_fuzzers)
add_custom_target(all_benches)

# vhostdev_tool(NAME <binary> SOURCES <file>... [LIBS <target>...])
#
# A small main over the library, installed to bin.
function(vhostdev_tool)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME" "SOURCES;LIBS")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vhostdev_tool: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  if(NOT ARG_SOURCES)
    return()
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_include_directories(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} vhostdev::vhostdev
                                            vhostdev_program)
  add_dependencies(all_tools ${ARG_NAME})
  install(TARGETS ${ARG_NAME} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
                                      COMPONENT tools)
endfunction()

# vhostdev_testing(SOURCES <file>...)
#
# vhostdev::testing: the fakes and the model back-end, for our tests and for
# those of an embedder.  Headers are <vhostdev/testing/...>.  Inside this
# project it does not bring the library along: a test names its rooms.
function(vhostdev_testing)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "" "SOURCES")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vhostdev_testing: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  file(GLOB headers CONFIGURE_DEPENDS
       ${CMAKE_CURRENT_SOURCE_DIR}/vhostdev/testing/*.h)
  add_library(vhostdev_testing STATIC ${ARG_SOURCES})
  add_library(vhostdev::testing ALIAS vhostdev_testing)
  target_sources(
    vhostdev_testing
    PUBLIC FILE_SET
           HEADERS
           BASE_DIRS
           ${CMAKE_CURRENT_SOURCE_DIR}
           FILES
           ${headers})
  target_include_directories(vhostdev_testing PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(
    vhostdev_testing
    PUBLIC $<BUILD_INTERFACE:vhostdev_contract>
           $<INSTALL_INTERFACE:vhostdev::vhostdev>
    PRIVATE $<BUILD_INTERFACE:vhostdev_warnings>)
  set_target_properties(
    vhostdev_testing PROPERTIES EXPORT_NAME testing LINKER_LANGUAGE CXX
                                VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()
