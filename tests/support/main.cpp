// Catch2 version 2 wants a translation unit that holds its main function; version 3 brings one.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
