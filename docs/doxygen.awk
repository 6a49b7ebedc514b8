# What Doxygen reads of a header: the header, and a comment on members that all layers, weights and update rules
# have. Their concepts (Layer, FrozenWeight, UpdateRule) explain them once, and it would be the same words in each class.
function standard(line) {
  if (line ~ /^ *using Scalar = /) return "The number type of all matrices."
  if (line ~ / in_features\(\) const/) return "The features of an input."
  if (line ~ / out_features\(\) const/) return "The features of an output."
  if (line ~ / make_cache\(Index /) return "All memory that a pass over so many samples needs; one for each thread."
  if (line ~ /void visit_parameters\(Visitor/) return "Calls visit(Parameter) for each trainable parameter, always in the same order."
  if (line ~ /static constexpr bool is_elementwise = /) return "Each coefficient is moved by itself, see UpdateRule."
  if (line ~ /Index state_count\(\)/) return "The moments kept for each coefficient."
  if (line ~ /static std::string name\(\)/) return "What a checkpoint calls the rule."
  if (line ~ /void visit_settings\(/) return "Calls visit(name, value) for each setting but the learning rate and the weight decay."
  if (line ~ /^  void validate\(\) const/) return "@throws ArgumentError for a setting out of its range"
  if (line ~ /^  void update\(FlatView/) return "Moves a parameter by its gradient. @param state a column a moment"
  if (line ~ /^  bool precondition\(FactorPair/) return "Changes the gradients of both factors. @return false if it cannot, as one is not finite"
  return ""
}
{
  documented = before ~ /^ *\/\/\//
  if ($0 ~ /^ *template <[^;{]*>$/) {  # a comment stands before it
    held = held $0 "\n"
    next
  }
  text = standard($0)
  if (text != "" && !documented) print "/// " text
  printf "%s", held
  held = ""
  print
  before = $0
}
END { printf "%s", held }
