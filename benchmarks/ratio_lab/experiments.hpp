// What is measured with trials: heat maps, the best ratio against width, speed, and methods
// compared.
#pragma once

#include "document.hpp"
#include "search.hpp"

namespace lab {

/// One task at several widths with one initialisation: for each ratio the best mean rate, and what
/// LoRA+ gains over LoRA with its best rate.
struct WidthStudy {
  struct At {
    Index width = 0;
    std::vector<Searched> by_ratio = {};  ///< an arm for each ratio, by rising ratio
    Reported lora = {};                   ///< ratio 1
    Reported ratio16 = {};
    Reported best = {};  ///< the ratio that was best on the tuning seeds
    Estimate gain16 = {};
    Estimate gain_best = {};
  };
  std::string task = {};
  Training training = {};
  std::vector<At> widths = {};

  /// Slope of log2 of the best ratio against log2 of the width, with its bootstrap interval over
  /// the tuning seeds.
  Line best_ratio() const;
  /// The same for the largest ratio whose loss is within 5 % of the best.
  Line largest_good_ratio() const;
  /// For one ratio, the slope of log2 of the best mean rate.
  Line mean_rate(int ratio_log2) const;
};

struct WidthOptions {
  std::string task = "teacher";
  std::vector<Index> widths = {64, 256, 1024};
  std::vector<int> ratios_log2 = {-2, 0, 2, 4, 6, 8};
  Training training = {};  ///< of either initialisation; both are studied
  Seeds seeds = {};
  double low_log2 = -9;  ///< of the search for g
  double high_log2 = -1;
  bool mup = true;
};

/// B = 0 first, then A = 0.
std::array<WidthStudy, 2> study_widths(Lab& lab, const WidthOptions& options);

/// Both initialisations of one task: tables and pictures. @param tag for the names of the pictures
Section width_section(const std::array<WidthStudy, 2>& studies, const std::string& tag);

/// The heat map of the loss over (eta_A, eta_B) of one task and width.
struct SweepOptions {
  std::string task = "teacher";
  Index width = 256;
  Training training = {};
  int lowest_ratio_log2 = -4;  ///< of the first round, in steps of a factor of 2
  int highest_ratio_log2 = 8;
  Seeds seeds = {};
  double low_log2 = -9;
  double high_log2 = -1;
};
struct Sweep {
  SweepOptions options;
  std::vector<Searched> by_ratio;
  Reported lora;
  Reported best;
  Estimate gain;
};
Sweep sweep(Lab& lab, const SweepOptions& options);
Section sweep_section(const Sweep& sweep, const std::string& tag);

/// Steps to the loss that tuned LoRA ends with, each method's rate tuned for just that.
struct SpeedOptions {
  std::string task = "teacher";
  Index width = 256;
  Training training = {};  ///< steps: those that LoRA ends with
  int ratio_log2 = 4;
  Seeds seeds = {};
  double low_log2 = -9;
  double high_log2 = -1;
  Index interval = 5;  ///< steps between two looks at the validation set
};
struct Speed {
  SpeedOptions options;
  double target = 0;  ///< validation loss
  Rates lora = {};
  Rates lora_plus = {};
  std::vector<double> lora_steps = {};  ///< one a reporting seed; infinite if never there
  std::vector<double> plus_steps = {};
  std::vector<double> other_lora_steps = {};  ///< LoRA again, on other seeds
  double ratio = 0;                           ///< median of LoRA's steps over LoRA+'s
  Interval interval = {};                     ///< bootstrap
  double null_ratio = 0;                      ///< the same of LoRA over LoRA on the other seeds
  Interval null_interval = {};
};
Speed measure_speed(Lab& lab, const SpeedOptions& options);
Section speed_section(const std::vector<Speed>& speeds);

/// Methods at equal numbers of tuning trials.
struct CompareOptions {
  std::string task = "teacher";
  Index width = 256;
  Training training = {};
  std::vector<int> ratios_log2 = {-2, 0, 2, 4, 6};  ///< even: exact in the rescaled family
  int rates = 13;                                   ///< for each ratio
  Seeds seeds = {};
  double low_log2 = -8;
  double high_log2 = -2;
};
struct Comparison {
  struct Row {
    std::string name;
    Reported reported;
    int trials;    ///< to tune
    int diverged;  ///< of those
    bool at_edge;
    Estimate gain;
    double p_value;  ///< corrected by Holm
  };
  CompareOptions options;
  std::vector<Row> rows;         ///< LoRA first
  double family_difference = 0;  ///< of log losses, between ratios and rescaled initialisations
};
Comparison compare(Lab& lab, const CompareOptions& options);
Section compare_section(const Comparison& comparison);

/// The problem of a task at a width.
Setup make_setup(const std::string& task, Index width, bool mup = true);

}  // namespace lab
