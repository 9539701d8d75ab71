#!/usr/bin/env bash
# Which required tests we have: all rows of the parity list (Z-001 to Z-271), and the rows of attacks, tunnels and faults
# (V, T, F) that docs/parity-required.txt names. A test names its rows in a comment beside it: `// Z-043, F-29`, or a
# range `// Z-113..Z-125`. Rows without a test stand in docs/parity-left-out.txt as `Z-nnn reason`. Exits 1 when a row has
# neither.
set -euo pipefail
cd "$(dirname "$0")/.."
expand() { # rows named on the lines of standard input, one per line
    grep -oE '\b[ZVTF]-[0-9]{2,3}(\.\.=?([ZVTF]-)?[0-9]{2,3})?\b' | sed -E 's/\.\.=?([ZVTF]-)?/ /; s/-/ /' |
        awk '{ from = $2 + 0; to = (NF > 2) ? $3 + 0 : from; width = length($2); for (i = from; i <= to; i++) printf "%s-%0*d\n", $1, width, i }' | sort -u
}
# Only tests count: a constant that names the row it obeys shows nothing.
tests="$(git ls-files '*.rs' | while read -r file; do
    case "$file" in */tests/* | */tests.rs | *_tests.rs) echo "$file" ;; *) grep -q '^ *#\[cfg(test)\]' "$file" && echo "$file" ;; esac
done)"
named() { # lines of comments in files of tests, and in the test modules of other files
    for file in $tests; do
        case "$file" in
        */tests/* | */tests.rs | *_tests.rs) cat "$file" ;;
        *) sed -n '/^ *#\[cfg(test)\]/,$p' "$file" ;;
        esac
    done | grep -E '//.*[ZVTF]-[0-9]{2}'
}
rows="$({ echo 'Z-001..271'; cat docs/parity-required.txt; } | grep -v '^#' | expand)"
left_out="$(expand <docs/parity-left-out.txt || true)"
# A row that stands in that list counts as left out, also where a test shows a part of it.
covered="$(named | expand | grep -vxF "$left_out" || true)"
missing=()
for kind in Z V T F; do
    of_kind="$(grep "^$kind-" <<<"$rows")"
    echo "$kind: $(grep -cxF "$covered" <<<"$of_kind" || true) of $(wc -l <<<"$of_kind") rows have a test"
    while read -r row; do missing+=("$row"); done < <(grep -vxF "$covered"$'\n'"$left_out" <<<"$of_kind" || true)
done
echo "left out, with the reason ($(grep -c . <<<"$left_out")):"
sed 's/^/  /' docs/parity-left-out.txt
if [ ${#missing[@]} -gt 0 ]; then
    echo "neither covered nor explained (${#missing[@]}): ${missing[*]}"
    exit 1
fi
