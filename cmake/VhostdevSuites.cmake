# SPDX-License-Identifier: Apache-2.0
#
# Included by ctest before it runs, with BINARY (a gtest program), NAME, LABEL,
# TIMEOUT and SERIAL: makes each suite of the program a ctest NAME.<suite>.  A
# process per test would spend more time in starting than in testing.

if(NOT EXISTS "${BINARY}")
  # Without a label: some presets build a part only, and run by label.
  add_test(${NAME}_NOT_BUILT ${NAME}_NOT_BUILT)
  return()
endif()
execute_process(
  COMMAND ${BINARY} --gtest_list_tests
  OUTPUT_VARIABLE listed
  RESULT_VARIABLE failed
  TIMEOUT 60)
if(failed)
  message(FATAL_ERROR "${BINARY} --gtest_list_tests: ${failed}")
endif()
# A suite's line begins it, and is "<suite>." or "<suite>.  # <parameter>".
string(REGEX MATCHALL "(^|\n)[^ \n#]+\\." suites "${listed}")
foreach(suite IN LISTS suites)
  string(REGEX REPLACE "[\n]|\\.$" "" suite "${suite}")
  # The first line says whose main() it is.
  if(suite MATCHES " " OR suite STREQUAL "")
    continue()
  endif()
  add_test(${NAME}.${suite} ${BINARY} --gtest_filter=${suite}.*)
  set_tests_properties(
    ${NAME}.${suite} PROPERTIES LABELS ${LABEL} TIMEOUT ${TIMEOUT}
                                RUN_SERIAL ${SERIAL})
endforeach()
