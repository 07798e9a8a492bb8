#!/usr/bin/env bash
# Instructions per request, by callgrind: the same on every run of one build, whatever else the machine does.
# Usage: benches/instructions.sh [cargo flags, such as --features axum]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is missing (apt-get install valgrind)" >&2; exit 1; }
program=$(cargo bench --bench instructions --no-run "$@" --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*instructions[^"]*\)".*/\1/p' | tail -n 1)

total() { # what, times
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
per_request() { echo $((($(total "$1" 3000) - $(total "$1" 1000)) / 2000)); }

block=$(per_request block)
clone=$(per_request clone)
clone_v6=$(per_request clone-v6)
printf '%-44s %6d\n' "one keyed BLAKE3 block" "$block"
row() { # label, what, without the layer
    local cost=$(($(per_request "$2") - $3))
    printf '%-44s %6d  %s blocks\n' "$1" "$cost" "$(awk "BEGIN { printf \"%.1f\", $cost / $block }")"
}
row "the layer, IPv4 client" layer "$clone"
row "the layer, IPv6 client" layer-v6 "$clone_v6"
row "the layer, 10,000 trusted networks" layer-10000 "$clone"
row "the layer, scope per session" layer-session "$clone"
