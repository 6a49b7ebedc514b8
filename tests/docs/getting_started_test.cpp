// The program of docs/getting-started.md, as a part of this one, which spares a second compilation.
#include <iostream>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/docs.hpp"

namespace docs_getting_started {

#include "docs/getting_started.cpp"

TEST_CASE("docs/getting-started.md") {
  const test::Printed printed;
  CHECK(docs_getting_started::main() == 0);
  CHECK(printed.text().starts_with(
      "534 of 4931 parameters to train\nmean square of the error: 0.0101"));
  CHECK(printed.text().find("\n200: loss ") != std::string::npos);
}

}  // namespace docs_getting_started
