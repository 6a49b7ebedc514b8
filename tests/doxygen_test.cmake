# cmake -DROOT=<the sources> -DDOXYGEN=<doxygen> -DOUT=<folder> -P doxygen_test.cmake
# The API reference is made without a warning: every public symbol has a comment, and each comment fits its symbol.
file(READ "${ROOT}/docs/Doxyfile" settings)
file(MAKE_DIRECTORY "${OUT}")
file(WRITE "${OUT}/Doxyfile" "${settings}\nOUTPUT_DIRECTORY = \"${OUT}\"\n")
execute_process(COMMAND "${DOXYGEN}" "${OUT}/Doxyfile" WORKING_DIRECTORY "${ROOT}" COMMAND_ERROR_IS_FATAL ANY)

# What Doxygen overlooks.
file(GLOB_RECURSE headers "${ROOT}/include/*.hpp")
execute_process(COMMAND awk -f "${ROOT}/docs/undocumented.awk" ${headers} COMMAND_ERROR_IS_FATAL ANY)
