# SPDX-License-Identifier: Apache-2.0
#
# Tests, fuzz targets and benchmarks.  Every ctest has one label; the time
# each label may take is in tests/budgets.

include(GoogleTest)
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
if(VHOSTDEV_LIBFUZZER)
  # What ./run fuzz has to run: "<binary> <corpus>" per line.
  file(WRITE ${PROJECT_BINARY_DIR}/fuzzers "")
endif()

# ./run test runs these, and the labels fuzz and bench below.
set(VHOSTDEV_LABELS unit conformance peers guest kvm migration install nightly)

# Sets _vhostdev_libs to what a test links: the test kit, the given libraries
# and, if no room (vhostdev_<room>) is among them, the whole library.  Sets
# ${skip} instead if a room it needs is not part of this build.
function(_vhostdev_test_libs target skip)
  set(rooms ${ARGN})
  list(FILTER rooms INCLUDE REGEX "^vhostdev_")
  if(NOT rooms)
    list(APPEND ARGN vhostdev::vhostdev)
  endif()
  foreach(room IN LISTS rooms)
    if(NOT TARGET ${room})
      message(STATUS "${target} is left out: there is no ${room}")
      set(${skip} TRUE PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${skip} FALSE PARENT_SCOPE)
  set(_vhostdev_libs vhostdev::testing ${ARGN} vhostdev_program PARENT_SCOPE)
endfunction()

# gtest, gmock and Abseil, compiled once per build.
add_library(vhostdev_test_pch OBJECT ${PROJECT_SOURCE_DIR}/tests/pch.cc)
target_link_libraries(vhostdev_test_pch PRIVATE vhostdev_contract GTest::gmock
                                                vhostdev_warnings)
# Clang would write the time into it, and no compiler cache could find again
# what was compiled with it.
target_compile_options(
  vhostdev_test_pch
  PRIVATE -fPIE "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")
target_precompile_headers(vhostdev_test_pch PRIVATE
                          ${PROJECT_SOURCE_DIR}/tests/pch.h)

# _vhostdev_test_binary(<binary> SOURCES <file>... [LIBS <target>...])
#
# A gtest binary in bin/, if all rooms in LIBS are part of this build.
function(_vhostdev_test_binary target)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES;LIBS")
  _vhostdev_test_libs(${target} skip ${ARG_LIBS})
  if(skip)
    return()
  endif()
  add_executable(${target} ${ARG_SOURCES})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE GTest::gmock_main
                                            ${_vhostdev_libs})
  # What is tested is as shipped; the tests themselves need not be fast, and
  # take two thirds of the time to compile.
  target_compile_options(${target}
                         PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1;-g1>)
  add_dependencies(all_tests ${target})
  target_precompile_headers(${target} REUSE_FROM vhostdev_test_pch)
endfunction()

# The suites of vhostdev_test's binary as ctests.
function(_vhostdev_suites binary)
  set(list ${CMAKE_CURRENT_BINARY_DIR}/${binary}_suites.cmake)
  file(GENERATE OUTPUT ${list}
       CONTENT "set(BINARY \"$<TARGET_FILE:${binary}>\")
set(NAME ${binary})
set(LABEL ${ARG_LABEL})
set(TIMEOUT ${ARG_TIMEOUT})
set(SERIAL ${ARG_SERIAL})
include(\"${PROJECT_SOURCE_DIR}/cmake/VhostdevSuites.cmake\")
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${list})
endfunction()

# vhostdev_test(NAME <binary> LABEL <label> SOURCES <file>...
#               [LIBS <target>...] [TIMEOUT <seconds>] [SERIAL])
#
# A gtest binary in bin/.  Each suite of it is a ctest where the label is unit
# or conformance, each test elsewhere; TIMEOUT is for that.  LIBS names the
# rooms it needs (vhostdev_virtio ...); without one it gets the whole library.
# SERIAL: no other test runs beside one of these, which keep all processors
# busy.
function(vhostdev_test)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "SERIAL" "NAME;LABEL;TIMEOUT"
                        "SOURCES;LIBS")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vhostdev_test ${ARG_NAME}: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  if(NOT ARG_LABEL IN_LIST VHOSTDEV_LABELS)
    message(FATAL_ERROR "vhostdev_test ${ARG_NAME}: no label \"${ARG_LABEL}\"")
  endif()
  if(NOT ARG_SOURCES)
    return()
  endif()
  if(ARG_LABEL MATCHES "^(unit|conformance)$")
    set(suites TRUE)
    set(patience 400)
  else()
    set(suites FALSE)
    set(patience 60)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT ${patience})
  endif()
  _vhostdev_test_binary(${ARG_NAME} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS})
  if(NOT TARGET ${ARG_NAME})
    return()
  endif()
  if(suites)
    _vhostdev_suites(${ARG_NAME})
    return()
  endif()
  gtest_discover_tests(
    ${ARG_NAME}
    TEST_PREFIX ${ARG_NAME}.
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT}
               RUN_SERIAL ${ARG_SERIAL})
endfunction()

# vhostdev_fuzz(NAME <binary> SOURCES <file>... CORPUS <folder>
#               [LIBS <target>...])
#
# A file with LLVMFuzzerTestOneInput.  With VHOSTDEV_LIBFUZZER it becomes a
# libFuzzer binary, everywhere else a program that runs it over the files of
# its corpus.  Either way a ctest <binary>.corpus replays the corpus.
function(vhostdev_fuzz)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;CORPUS" "SOURCES;LIBS")
  if(ARG_UNPARSED_ARGUMENTS OR NOT ARG_CORPUS)
    message(FATAL_ERROR "vhostdev_fuzz ${ARG_NAME}: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  _vhostdev_test_libs(${ARG_NAME} skip ${ARG_LIBS})
  if(skip)
    return()
  endif()
  get_filename_component(corpus ${ARG_CORPUS} ABSOLUTE)
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_include_directories(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${ARG_NAME} PRIVATE ${_vhostdev_libs})
  add_dependencies(all_tests ${ARG_NAME})
  add_dependencies(all_fuzzers ${ARG_NAME})
  if(VHOSTDEV_LIBFUZZER)
    target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
    add_test(NAME ${ARG_NAME}.corpus COMMAND ${ARG_NAME} -runs=0 ${corpus})
    file(APPEND ${PROJECT_BINARY_DIR}/fuzzers "${ARG_NAME} ${corpus}\n")
  else()
    target_sources(${ARG_NAME}
                   PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.cc)
    add_test(NAME ${ARG_NAME}.corpus COMMAND ${ARG_NAME} ${corpus})
  endif()
  set_tests_properties(${ARG_NAME}.corpus PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()

# vhostdev_bench(NAME bench_<what> SOURCES <file>... [LIBS <target>...]
#                [SMOKE <argument>...])
#
# A benchmark program.  Its ctest (label bench) only shows that it runs, with
# the SMOKE arguments; ./run bench runs it in full.
function(vhostdev_bench)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME" "SOURCES;LIBS;SMOKE")
  if(ARG_UNPARSED_ARGUMENTS OR NOT ARG_NAME MATCHES "^bench_")
    message(FATAL_ERROR "vhostdev_bench ${ARG_NAME}: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  _vhostdev_test_libs(${ARG_NAME} skip ${ARG_LIBS})
  if(skip)
    return()
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_include_directories(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${ARG_NAME} PRIVATE ${_vhostdev_libs})
  add_dependencies(all_benches ${ARG_NAME})
  add_test(NAME ${ARG_NAME}.smoke COMMAND ${ARG_NAME} ${ARG_SMOKE})
  set_tests_properties(${ARG_NAME}.smoke PROPERTIES LABELS bench TIMEOUT 120)
endfunction()

# vhostdev_check(NAME <name> COMMAND <script> [<argument>...])
#
# A Python script over the source tree, as a ctest (label unit).
function(vhostdev_check)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME" "COMMAND")
  add_test(NAME ${ARG_NAME} COMMAND Python3::Interpreter ${ARG_COMMAND}
           WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS unit TIMEOUT 60)
endfunction()
