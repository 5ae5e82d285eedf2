# SPDX-License-Identifier: Apache-2.0
#
# Run by cpack on what is to be packaged: it strips programs and shared
# libraries itself, static libraries keep their symbols and lose their debug
# information here.
file(GLOB_RECURSE archives ${CPACK_TEMPORARY_DIRECTORY}/*.a)
find_program(strip strip REQUIRED)
foreach(archive IN LISTS archives)
  execute_process(COMMAND ${strip} --strip-debug ${archive}
                  COMMAND_ERROR_IS_FATAL ANY)
endforeach()
