# cmake -DBUILD=<build folder> -DPREFIX=<folder> -DIO=<whether there is nlohmann_json> -P install.cmake
# Installs loraplus, moves what was installed to PREFIX, and checks that it is what was asked for and
# knows no folder of this machine.
set(first "${PREFIX}-first")
file(REMOVE_RECURSE "${first}" "${PREFIX}")
execute_process(COMMAND ${CMAKE_COMMAND} --install "${BUILD}" --prefix "${first}"
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(RENAME "${first}" "${PREFIX}")

get_filename_component(source "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
file(GLOB_RECURSE headers RELATIVE "${source}" "${source}/include/*.hpp")
set(expected ${headers}
  share/cmake/loraplus/loraplus-config-version.cmake
  share/cmake/loraplus/loraplus-config.cmake
  share/cmake/loraplus/loraplus-targets.cmake
  share/licenses/loraplus/LICENSE
  share/pkgconfig/loraplus.pc)
if(IO)
  list(APPEND expected share/cmake/loraplus/loraplus-io-targets.cmake share/pkgconfig/loraplus-io.pc)
endif()
file(GLOB_RECURSE found RELATIVE "${PREFIX}" "${PREFIX}/*")
list(SORT expected)
list(SORT found)
if(NOT found STREQUAL expected)
  message(FATAL_ERROR "installed: ${found}\nexpected: ${expected}")
endif()
foreach(file IN LISTS found)
  file(READ "${PREFIX}/${file}" text)
  foreach(folder IN ITEMS "${first}" "${source}" "${BUILD}")
    string(FIND "${text}" "${folder}" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${file} holds ${folder}, which is nowhere but here")
    endif()
  endforeach()
endforeach()
