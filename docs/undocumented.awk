# awk -f undocumented.awk header...      Tells what Doxygen overlooks: concepts, macros and enumerators without a
# comment of ///, before them or behind. The second definition of a macro needs none.
FNR == 1 { documented = 0; in_enum = 0 }
/^ *enum class [A-Za-z]+ *{$/ { in_enum = 1; documented = 0; next }
in_enum && /^ *}/ { in_enum = 0 }
in_enum && /^ *[a-z][a-z0-9_]*,/ && !/\/\/\/</ && !documented { tell($1) }
/^ *enum class [A-Za-z]+ *{.*}/ && FILENAME !~ /\/io\// && !is_detail { tell($3) }
/^ *namespace .*detail/ { is_detail = 1 }
/^ *namespace loraplus::inline [a-z0-9_]+ {/ || /^}  \/\/ namespace detail/ { is_detail = 0 }
/^ *concept / && !documented { tell($2) }
/^#define LORAPLUS/ && !documented && !((FILENAME, $2) in known) { tell($2) }
/^#define LORAPLUS/ { sub(/\(.*/, "", $2); known[FILENAME, $2] = 1 }
/^ *\/\/\/ / { documented = 1; next }
/^ *template|^ *requires|^#(if|el|endif)/ { next }
{ documented = 0 }

function tell(name) {
  printf "%s:%d: %s has no comment\n", FILENAME, FNR, name
  status = 1
}
END { exit status }
