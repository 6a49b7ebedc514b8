#include "runner.hpp"

#include <set>

#include "finetune_mlp/interrupt.hpp"
#include "finetune_mlp/parallel.hpp"

namespace lab {

std::vector<Json> Runner::run(const std::string& phase, std::span<const Job> jobs) {
  std::vector<const Job*> missing;
  std::set<std::string> seen;
  for (const Job& job : jobs) {
    if (store_.find(job.key) == nullptr && seen.insert(job.key).second) missing.push_back(&job);
  }
  if (!missing.empty()) {
    if (!store_.is_writable()) {
      throw Incomplete("the results are not complete: " + std::to_string(missing.size()) +
                       " trials of \"" + phase +
                       "\" are missing; run the command again, it goes on");
    }
    progress_.begin(phase, static_cast<finetune::Index>(missing.size()), "trials");
    finetune::parallel_for(missing.size(), threads_, [&](std::size_t i) {
      finetune::throw_if_interrupted();
      store_.append(missing[i]->key, missing[i]->work());
      progress_.advance();
    });
    progress_.end();
    done_ += missing.size();
  }
  std::vector<Json> results;
  for (const Job& job : jobs) {
    results.push_back(*store_.find(job.key));
  }
  return results;
}

}  // namespace lab
