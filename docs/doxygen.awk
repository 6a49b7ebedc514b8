# What Doxygen reads of a header: the header, and a comment on members that all layers, weights and update rules
# have. Their concepts (Layer, FrozenWeight, UpdateRule) explain them once; it would be the same words in each class.
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
  if (line ~ /^  Index rank\(\) const/) return "The rank, r."
  if (line ~ /^  Scalar scaling\(\) const/) return "The scaling, s."
  if (line ~ /^  double dropout\(\) const/) return "The probability that an input of the adapter is dropped in training."
  if (line ~ /^  const [A-Za-z]+& weight\(\) const/) return "The frozen weight."
  if (line ~ /^  bool enabled\(\) const/) return "Whether adapters are computed, see set_enabled."
  if (line ~ /^  ConstVectorView<Scalar> bias\(\) const/) return "The bias, out coefficients, or empty."
  if (line ~ /^  Index rows\(\) const/) return "The rows."
  if (line ~ /^  Index cols\(\) const/) return "The columns."
  if (held != "" && line ~ /^[A-Z][A-Za-z]*\(.*[)&].*$/ && line ~ /(->|\)$)/) return "Deduces the types from the arguments."
  return ""
}
{
  sub(/::inline v[0-9_]+/, "")  # which Doxygen takes for the name of another namespace
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
