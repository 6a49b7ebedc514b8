# The code that the README shows first is the example that is compiled and run.
file(READ "${ROOT}/README.md" readme)
file(READ "${ROOT}/examples/quickstart.cpp" quickstart)
string(FIND "${readme}" "```cpp\n${quickstart}```" found)
if(found EQUAL -1)
  message(FATAL_ERROR "README.md does not show examples/quickstart.cpp as it is")
endif()
