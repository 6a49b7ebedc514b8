# cmake -DROOT=<the sources> -DOUT=<folder> -P getting_started.cmake
# Does what docs/getting-started.md says, letter by letter, in a folder where there is nothing but the library: its
# program, its CMakeLists.txt, its commands.
# What the program prints must be what the page shows, but for the digits behind the third of a number.
set(PAGE "${ROOT}/docs/getting-started.md")
file(REMOVE_RECURSE "${OUT}")
file(READ "${PAGE}" rest)

# The next block of this language; what follows it remains in `rest`.
macro(next_block language result)
  string(FIND "${rest}" "\n```${language}\n" begin)
  if(begin EQUAL -1)
    message(FATAL_ERROR "${PAGE} has no further block of ${language}")
  endif()
  string(LENGTH "\n```${language}\n" length)
  math(EXPR begin "${begin} + ${length}")
  string(SUBSTRING "${rest}" ${begin} -1 rest)
  string(FIND "${rest}" "```" end)
  string(SUBSTRING "${rest}" 0 ${end} ${result})
endmacro()
next_block(cpp program)
next_block(cmake project)
next_block(sh commands)
next_block(text expected)

file(WRITE "${OUT}/main.cpp" "${program}")
file(WRITE "${OUT}/CMakeLists.txt" "${project}")
file(CREATE_LINK "${ROOT}" "${OUT}/loraplus" SYMBOLIC)  # in the place of a clone
execute_process(COMMAND sh -euc "${commands}" WORKING_DIRECTORY "${OUT}" OUTPUT_VARIABLE all
                COMMAND_ERROR_IS_FATAL ANY)
string(FIND "${all}" "parameters to train" found)
string(SUBSTRING "${all}" 0 ${found} before)
string(FIND "${before}" "\n" line REVERSE)
math(EXPR line "${line} + 1")
string(SUBSTRING "${all}" ${line} -1 printed)

foreach(text IN ITEMS expected printed)
  string(REGEX REPLACE "(0\\.0*[1-9][0-9][0-9]|[1-9]\\.[0-9][0-9])[0-9]*" "\\1" ${text} "${${text}}")
endforeach()
if(NOT printed STREQUAL expected)
  message(FATAL_ERROR "${PAGE} shows\n${expected}\nits program prints\n${printed}")
endif()
