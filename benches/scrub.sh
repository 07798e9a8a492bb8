#!/usr/bin/env bash
# How fast `ipveil scrub` reads a file, next to `wc -l` and `sed`, in rounds, so that a noisy machine is noisy for all.
# Usage: benches/scrub.sh LOG [rounds]. LOG should be in memory (/dev/shm) and a few hundred megabytes at least.
set -euo pipefail
log=$(realpath "$1")
rounds=${2:-5}
cd "$(dirname "$0")/.."
cargo build --release --quiet --features cli --bin ipveil
ipveil=target/release/ipveil
size=$(stat -c %s "$log")
declare -A command=(
    [wc -l]="wc -l"
    [truncated, one core]="$ipveil scrub -q --threads 1 --as network"
    [keyed, one core]="$ipveil scrub -q --threads 1"
    [truncated, all cores]="$ipveil scrub -q --as network"
    [keyed, all cores]="$ipveil scrub -q"
)
times=$(mktemp)
trap 'rm -f "$times"' EXIT
for _ in $(seq "$rounds"); do
    for name in "${!command[@]}"; do
        start=$(date +%s%N)
        ${command[$name]} "$log" >/dev/null
        echo "$name	$(($(date +%s%N) - start))" >>"$times"
    done
done
# sed, for both families roughly, on a part: it takes too long for all of it.
part=$(mktemp)
trap 'rm -f "$times" "$part"' EXIT
head -c 33554432 "$log" >"$part"
start=$(date +%s%N)
LC_ALL=C sed -E -e 's/([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})\.[0-9]{1,3}/\1.0/g' \
    -e 's/([0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}:[0-9a-fA-F]{0,4}):[0-9a-fA-F:]*:[0-9a-fA-F]{0,4}/\1::/g' "$part" >/dev/null
sed_time=$(($(date +%s%N) - start))
printf '%-24s %10s\n' "" "MB/s"
for name in "wc -l" "truncated, one core" "keyed, one core" "truncated, all cores" "keyed, all cores"; do
    median=$(awk -F'\t' -v name="$name" '$1 == name { print $2 }' "$times" | sort -n | sed -n "$(((rounds + 1) / 2))p")
    printf '%-24s %10.0f\n' "$name" "$(awk "BEGIN { print $size * 1000 / $median }")"
done
printf '%-24s %10.0f\n' "sed -E, one core" "$(awk "BEGIN { print $(stat -c %s "$part") * 1000 / $sed_time }")"
