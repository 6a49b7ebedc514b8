# cmake -DROOT=<the sources> -DPREFIX=<where they are installed> -DOUT=<folder> -P getting_started.cmake
# Does what README.md and docs/getting-started.md say, letter by letter, in a folder where there is nothing but the
# library: their programs, their CMakeLists.txt, their commands.
# What a program prints must be what the page shows, but for the digits behind the second of a number. Then the
# other ways: each project of CMake is configured, and each command of a compiler reads the program.
file(REMOVE_RECURSE "${OUT}")

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

# Builds and runs `program` by `project` and `commands`, in a folder of its own.
function(build_and_run folder)
  file(WRITE "${OUT}/${folder}/main.cpp" "${program}")
  file(WRITE "${OUT}/${folder}/CMakeLists.txt" "${project}")
  file(CREATE_LINK "${ROOT}" "${OUT}/${folder}/loraplus" SYMBOLIC)  # in the place of a clone
  execute_process(COMMAND sh -euc "${commands}" WORKING_DIRECTORY "${OUT}/${folder}" OUTPUT_VARIABLE all
                  COMMAND_ERROR_IS_FATAL ANY)
  string(FIND "${all}" "parameters to train" found)
  string(SUBSTRING "${all}" 0 ${found} before)
  string(FIND "${before}" "\n" line REVERSE)
  math(EXPR line "${line} + 1")
  string(SUBSTRING "${all}" ${line} -1 printed)
  foreach(text IN ITEMS expected printed)
    string(REGEX REPLACE "(0\\.0*[1-9][0-9]|[1-9]\\.[0-9])[0-9]*" "\\1" ${text} "${${text}}")
  endforeach()
  if(NOT printed STREQUAL expected)
    message(FATAL_ERROR "${PAGE} shows\n${expected}\nits program prints\n${printed}")
  endif()
endfunction()

set(PAGE "${ROOT}/README.md")
file(READ "${PAGE}" rest)
next_block(cpp program)
next_block(text expected)
next_block(cmake project)
next_block(sh commands)
build_and_run(readme)

set(PAGE "${ROOT}/docs/getting-started.md")
file(READ "${PAGE}" rest)
next_block(cpp program)
next_block(cmake project)
next_block(sh commands)
next_block(text expected)
build_and_run(first)

next_block(sh installing)  # see install.cmake
next_block(cmake installed)
next_block(cmake fetched)
next_block(sh by_pkg_config)
next_block(sh by_hand)
next_block(cmake for_files)
string(REPLACE "GIT_REPOSITORY <this repository> GIT_TAG <a commit>" "SOURCE_DIR \"${ROOT}\"" fetched "${fetched}")

function(configure way text)
  file(WRITE "${OUT}/${way}/CMakeLists.txt" "${text}")
  file(WRITE "${OUT}/${way}/main.cpp" "${program}")
  file(CREATE_LINK "${ROOT}" "${OUT}/${way}/loraplus" SYMBOLIC)
  execute_process(COMMAND ${CMAKE_COMMAND} -S . -B build "-DCMAKE_PREFIX_PATH=${PREFIX}" OUTPUT_QUIET
                  WORKING_DIRECTORY "${OUT}/${way}" COMMAND_ERROR_IS_FATAL ANY)
endfunction()
foreach(way IN ITEMS installed fetched)
  string(REPLACE "add_subdirectory(loraplus)" "${${way}}" text "${project}")
  configure(${way} "${text}")
endforeach()
if(IO)
  configure(for_files "${project}\n${for_files}")
endif()

set(ENV{PKG_CONFIG_PATH} "${PREFIX}/share/pkgconfig")
set(commands "${by_hand}")
find_program(pkg_config pkg-config)
if(pkg_config)
  string(APPEND commands "${by_pkg_config}")
endif()
string(REPLACE "c++ " "$CXX " commands "${commands}")
string(REPLACE "-O3 -march=native" "-fsyntax-only" commands "${commands}")
string(REPLACE "-isystem /usr/include/eigen3" "-isystem '${EIGEN}'" commands "${commands}")
execute_process(COMMAND sh -euc "${commands}" WORKING_DIRECTORY "${OUT}/first" COMMAND_ERROR_IS_FATAL ANY)
