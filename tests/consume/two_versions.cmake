# cmake -DCOMPILER=<c++> -DINCLUDE=<folder of headers> -DFLAGS=<flags> -DOUT=<folder> -P two_versions.cmake
# Builds and runs two_versions.cpp with the library and with another version of it, whose scaling is twice as
# large. Not optimised, so that the linker has one function for every name.
file(REMOVE_RECURSE "${OUT}")
file(GLOB_RECURSE headers RELATIVE "${INCLUDE}" "${INCLUDE}/*.hpp")
foreach(header IN LISTS headers)
  file(READ "${INCLUDE}/${header}" text)
  string(REGEX REPLACE "loraplus::inline v[0-9_]+" "loraplus::inline v9_9" text "${text}")
  string(REPLACE "return options.alpha /" "return 2 * options.alpha /" text "${text}")
  file(WRITE "${OUT}/include/${header}" "${text}")
endforeach()

separate_arguments(flags UNIX_COMMAND "${FLAGS}")
function(compile include scaling)
  execute_process(COMMAND "${COMPILER}" -std=c++20 -O0 ${flags} "-I${include}" "-DSCALING=${scaling}" -c
                          "${CMAKE_CURRENT_LIST_DIR}/two_versions.cpp" -o "${OUT}/${scaling}.o"
                  COMMAND_ERROR_IS_FATAL ANY)
endfunction()
compile("${INCLUDE}" scaling_of_this_version)
compile("${OUT}/include" scaling_of_another_version)
execute_process(COMMAND "${COMPILER}" -std=c++20 "${CMAKE_CURRENT_LIST_DIR}/two_versions.cpp"
                        "${OUT}/scaling_of_this_version.o" "${OUT}/scaling_of_another_version.o"
                        -o "${OUT}/two_versions" COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${OUT}/two_versions" COMMAND_ERROR_IS_FATAL ANY)
