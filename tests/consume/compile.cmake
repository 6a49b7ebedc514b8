# cmake -DCOMPILER=<c++> -DSOURCE=<file> -DPROGRAM=<file> [-DFLAGS=<flags>] [-DPACKAGE=<name>] [-DMISUSE=<words>]
#       -P compile.cmake
# Compiles a program without a build system, with the flags given and those that pkg-config knows for PACKAGE,
# and runs it; with an argument it must say the words of MISUSE and end abnormally.
if(PACKAGE)
  execute_process(COMMAND pkg-config --cflags ${PACKAGE} OUTPUT_VARIABLE package_flags
                  COMMAND_ERROR_IS_FATAL ANY)
endif()
separate_arguments(flags UNIX_COMMAND "${FLAGS} ${package_flags}")
execute_process(COMMAND "${COMPILER}" -std=c++20 ${flags} "${SOURCE}" -o "${PROGRAM}"
                COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${PROGRAM}" COMMAND_ERROR_IS_FATAL ANY)
if(MISUSE)
  execute_process(COMMAND "${PROGRAM}" misuse RESULT_VARIABLE result ERROR_VARIABLE error)
  if(result EQUAL 0 OR NOT error MATCHES "${MISUSE}")
    message(FATAL_ERROR "misuse must end the program with '${MISUSE}', found '${error}' (${result})")
  endif()
endif()
