# SPDX-License-Identifier: Apache-2.0
#
# Tests that need a kernel's devices run in a virtual machine, under
# tests/guest/run-in-guest, one boot for all tests of a binary.

# A first use downloads a kernel and builds modules, and the tests wait for it.
set(_vhostdev_first_use 600)

# vhostdev_guest_run(NAME <test> BINARY <target> [MODULES <module>...]
#                    [PROGRAMS <target or path>...] [MEMORY <MiB>]
#                    [TIMEOUT <seconds>] [FILTER <tests>])
#
# A ctest <test> (label guest) that runs a gtest binary in the guest, or those
# of its tests that FILTER chooses, with the modules loaded, and PROGRAMS in the
# guest's /bin.  It fails if a test in it fails or there are none; it is skipped,
# with the reason, where there can be no guest.  A build with sanitizers has no
# such ctest.
#
# One that takes KVM into the guest (kvm_amd) is for each night, not each day: an
# emulated computer with an emulated KVM freezes now and then.  There is none
# where the machine has KVM itself.
function(vhostdev_guest_run)
  cmake_parse_arguments(PARSE_ARGV 0 ARG ""
                        "NAME;BINARY;MEMORY;TIMEOUT;FILTER" "MODULES;PROGRAMS")
  if(ARG_UNPARSED_ARGUMENTS)
    message(
      FATAL_ERROR "vhostdev_guest_run ${ARG_NAME}: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  if(NOT ARG_MEMORY)
    set(ARG_MEMORY 512)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  if(NOT ARG_FILTER)
    set(ARG_FILTER "*")
  endif()
  if(NOT TARGET ${ARG_BINARY} OR CMAKE_CXX_FLAGS MATCHES "-fsanitize|--coverage")
    return()
  endif()
  if(kvm_amd IN_LIST ARG_MODULES AND EXISTS /dev/kvm)
    return()
  endif()
  list(JOIN ARG_MODULES " " modules)
  set(programs)
  foreach(program IN LISTS ARG_PROGRAMS)
    if(TARGET ${program})
      set(program $<TARGET_FILE:${program}>)
    endif()
    list(APPEND programs -p ${program})
  endforeach()
  add_test(NAME ${ARG_NAME}
           COMMAND ${PROJECT_SOURCE_DIR}/tests/guest/run-in-guest -m "${modules}"
                   ${programs} -r ${ARG_MEMORY} -t ${ARG_TIMEOUT} $<TARGET_FILE:${ARG_BINARY}>
                   --gtest_filter=${ARG_FILTER})
  _vhostdev_guest_properties(${ARG_NAME} ${ARG_TIMEOUT})
  set_tests_properties(${ARG_NAME} PROPERTIES FAIL_REGULAR_EXPRESSION
                                              "Running 0 tests")
  if(kvm_amd IN_LIST ARG_MODULES)
    set_tests_properties(
      ${ARG_NAME} PROPERTIES LABELS nightly FAIL_REGULAR_EXPRESSION
                             "Running 0 tests;SKIPPED")
  endif()
endfunction()

function(_vhostdev_guest_properties test seconds)
  math(EXPR limit "${seconds} + ${_vhostdev_first_use}")
  set_tests_properties(
    ${test} PROPERTIES LABELS guest TIMEOUT ${limit} RUN_SERIAL ON
                       SKIP_RETURN_CODE 126)
endfunction()

# vhostdev_guest_test(NAME <binary> [MODULES <module>...]
#                     [PROGRAMS <target or path>...] [MEMORY <MiB>]
#                     [TIMEOUT <seconds>] SOURCES <file>... [LIBS <target>...])
#
# A gtest binary in bin/ that runs in the guest, all of it as the ctest
# <binary>.  LIBS is that of vhostdev_test.
function(vhostdev_guest_test)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;MEMORY;TIMEOUT"
                        "MODULES;PROGRAMS;SOURCES;LIBS")
  if(ARG_UNPARSED_ARGUMENTS)
    message(
      FATAL_ERROR "vhostdev_guest_test ${ARG_NAME}: ${ARG_UNPARSED_ARGUMENTS}?")
  endif()
  _vhostdev_test_binary(${ARG_NAME} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS})
  vhostdev_guest_run(
    NAME ${ARG_NAME}
    BINARY ${ARG_NAME}
    MODULES ${ARG_MODULES}
    PROGRAMS ${ARG_PROGRAMS}
    MEMORY ${ARG_MEMORY}
    TIMEOUT ${ARG_TIMEOUT})
endfunction()

# vhostdev_guest_script(NAME <test> COMMAND <script> [<argument>...]
#                       [TIMEOUT <seconds>])
#
# A Python script that calls run-in-guest itself, as a ctest (label guest).  It
# exits with 126 where there can be no guest.
function(vhostdev_guest_script)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;TIMEOUT" "COMMAND")
  if(CMAKE_CXX_FLAGS MATCHES "-fsanitize|--coverage")
    return()
  endif()
  list(POP_FRONT ARG_COMMAND script)
  add_test(NAME ${ARG_NAME}
           COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/${script}
                   ${ARG_COMMAND})
  _vhostdev_guest_properties(${ARG_NAME} ${ARG_TIMEOUT})
endfunction()
