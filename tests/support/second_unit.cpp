// A second translation unit with the whole library: the program would not link if a header
// defined something that is not inline.
#include <loraplus/loraplus.hpp>
