#include "reproduce.hpp"

#include <stdexcept>

namespace lab {
namespace {

const std::vector<Index> widths_to_1024 = {64, 128, 256, 512, 1024};
const std::vector<Index> widths_to_2048 = {64, 128, 256, 512, 1024, 2048};

Training image_training(Index steps) {
  return {.steps = steps, .batch = 64};
}

WidthOptions teacher_widths(int tuning, int reporting) {
  return {.task = "teacher",
          .widths = widths_to_1024,
          .training = {.steps = 40},
          .seeds = {tuning, reporting},
          .low_log2 = -8,
          .high_log2 = -2};
}

WidthOptions image_widths(const std::string& task, std::vector<Index> widths, Index steps,
                          const Seeds& seeds) {
  return {.task = task,
          .widths = std::move(widths),
          .ratios_log2 = {-2, 0, 1, 2, 3, 4, 5, 6, 8},
          .training = image_training(steps),
          .seeds = seeds,
          .low_log2 = -11,
          .high_log2 = -4};
}

Plan short_plan() {
  return {.exponent_widths = widths_to_2048, .exponent_seeds = 3, .teacher = teacher_widths(8, 10)};
}

Plan image_plan(Index steps, const Seeds& seeds, int exponent_seeds) {
  Plan plan{.exponent_widths = widths_to_2048,
            .exponent_seeds = exponent_seeds,
            .teacher = teacher_widths(4 * seeds.tuning, 2 * seeds.reporting)};
  for (const char* task : {"rotate15", "rotate90", "invert"}) {
    plan.images.push_back(image_widths(task, widths_to_2048, steps, seeds));
  }
  // Outside the theory: a network in the standard parametrisation; and other ranks at one width.
  plan.images.push_back(image_widths("rotate90", {256}, steps, seeds));
  plan.images.back().mup = false;
  for (const Index rank : {1, 8}) {
    plan.images.push_back(image_widths("rotate90", {256}, steps, seeds));
    plan.images.back().training.rank = rank;
  }
  plan.speed_widths = {256, 1024};
  for (const bool b_random : {false, true}) {
    Training training = image_training(steps);
    training.b_random = b_random;
    plan.comparisons.push_back({.task = "rotate90",
                                .width = 256,
                                .training = training,
                                .seeds = seeds,
                                .low_log2 = -11,
                                .high_log2 = -5});
    plan.sweeps.push_back({.task = "rotate90",
                           .width = 256,
                           .training = training,
                           .seeds = seeds,
                           .low_log2 = -11,
                           .high_log2 = -4});
  }
  return plan;
}

/// Those of the main question: several widths.
bool is_main(const WidthStudy& study) {
  return study.widths.size() > 1;
}

std::string variant_name(const WidthOptions& options) {
  std::string name = options.task;
  if (!options.mup) name += "-standard";
  if (options.training.rank != Training{}.rank) {
    name += "-rank" + std::to_string(options.training.rank);
  }
  return name;
}

}  // namespace

Plan plan_for(const std::string& budget) {
  if (budget == "60s") return short_plan();
  if (budget == "30m") return image_plan(300, {3, 10}, 5);
  if (budget == "8h") return image_plan(1000, {10, 30}, 20);
  throw std::invalid_argument("no plan for a budget of " + budget);
}

Document reproduce(Lab& lab, const Plan& plan) {
  Document document{"LoRA+ measured: what the ratio of the two learning rates is worth"};
  const Exactness exactness = test_exactness(lab);
  const auto schemes = measure_exponents(lab, plan.exponent_widths, plan.exponent_seeds);
  constexpr std::array convergence_widths = {1e2, 1e3, 1e4, 1e6, 1e8};
  document.sections.push_back(exactness_section(exactness));
  document.sections.push_back(exponents_section(schemes));
  document.sections.push_back(convergence_section(measure_convergence(convergence_widths)));

  const auto teacher = study_widths(lab, plan.teacher);
  document.sections.push_back(width_section(teacher, "teacher"));
  std::vector<WidthStudy> a_random = {teacher[0]}, b_random = {teacher[1]}, easy, hard;
  for (const WidthOptions& options : plan.images) {
    const auto studies = study_widths(lab, options);
    Section section = width_section(studies, variant_name(options));
    if (!options.mup) section.title += ", standard parametrisation (outside the theory)";
    if (options.training.rank != Training{}.rank) {
      section.title += ", rank " + std::to_string(options.training.rank);
    }
    document.sections.push_back(std::move(section));
    if (!is_main(studies[0])) continue;
    a_random.push_back(studies[0]);
    b_random.push_back(studies[1]);
    if (options.task == "rotate15") easy.assign(studies.begin(), studies.end());
    if (options.task == "invert") hard.assign(studies.begin(), studies.end());
  }

  std::vector<Speed> speeds, speeds_b;
  for (const Index width : plan.speed_widths) {
    lab.problems.clear();
    for (const WidthOptions& options : plan.images) {
      if (options.widths.size() < 2) continue;
      for (const bool b : {false, true}) {
        Training training = options.training;
        training.b_random = b;
        speeds.push_back(measure_speed(lab, {.task = options.task,
                                             .width = width,
                                             .training = training,
                                             .seeds = options.seeds,
                                             .low_log2 = options.low_log2,
                                             .high_log2 = options.high_log2,
                                             .interval = 10}));
        if (b) speeds_b.push_back(speeds.back());
      }
    }
  }
  if (!speeds.empty()) document.sections.push_back(speed_section(speeds));

  lab.problems.clear();
  for (const CompareOptions& options : plan.comparisons) {
    document.sections.push_back(compare_section(compare(lab, options)));
  }
  for (const SweepOptions& options : plan.sweeps) {
    document.sections.push_back(
        sweep_section(sweep(lab, options), options.training.b_random ? "map-init2" : "map-init1"));
  }

  document.verdicts = {judge_theory(exactness, schemes, teacher), judge_gain_b_random(b_random),
                       judge_growth_a_random(a_random), judge_hard_task(easy, hard),
                       judge_speed(speeds_b)};
  return document;
}

}  // namespace lab
