#!/usr/bin/env bash
# Which rows of the parity list (Z-001 to Z-271) have a test of ours, and each other row with its reason.
# A test names its row in a comment beside it: `// Z-043`, or a range `// Z-113..Z-125`. Rows without a test stand in
# docs/parity-left-out.txt as `Z-nnn reason`. Exits 1 when a row has neither.
set -euo pipefail
cd "$(dirname "$0")/.."
last=271
sources="$(git ls-files '*.rs')"
expand() { # numbers named on the lines of standard input, one per line
    grep -oE 'Z-[0-9]{3}(\.\.=?(Z-)?[0-9]{3})?' | sed -E 's/Z-//g; s/\.\.=?/ /' |
        awk '{ from = $1 + 0; to = (NF > 1) ? $2 + 0 : from; for (i = from; i <= to; i++) print i }' | sort -nu
}
covered="$(grep -hE '//.*Z-[0-9]{3}' $sources 2>/dev/null | expand || true)"
left_out="$(expand <docs/parity-left-out.txt || true)"
# A row that stands in that list counts as left out, also where a test shows a part of it.
covered="$(grep -vxF "$left_out" <<<"$covered" || true)"
missing=()
for n in $(seq 1 $last); do
    grep -qx "$n" <<<"$covered"$'\n'"$left_out" || missing+=("$(printf 'Z-%03d' "$n")")
done
echo "covered by a test: $(grep -c . <<<"$covered") of $last"
echo "left out, with the reason ($(grep -c . <<<"$left_out")):"
sed 's/^/  /' docs/parity-left-out.txt
if [ ${#missing[@]} -gt 0 ]; then
    echo "neither covered nor explained (${#missing[@]}): ${missing[*]}"
    exit 1
fi
