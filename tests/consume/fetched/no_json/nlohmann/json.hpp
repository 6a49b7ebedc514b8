#error "the core must do without nlohmann_json"
