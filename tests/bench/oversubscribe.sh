#!/usr/bin/env bash
# oversubscribe.sh: what more threads than cores cost, with our kernels and with OpenBLAS, and what a quota of one CPU does.
#
#   tests/bench/oversubscribe.sh DIR [BATCH] [SECONDS]      DIR: a checkpoint, best of the public size (CLIP ViT-B/32)
#
# Pictures a second by the clock and processor time for each, engines and thread counts in turn. The quota is set on a
# control group of its own (root, cgroup v1 or v2), which is removed at the end; where that cannot be, one core by affinity.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=${1:?"usage: oversubscribe.sh DIR [BATCH] [SECONDS]"} batch=${2:-8} seconds=${3:-1.5}
cores=$(nproc)
group=

# measure WHAT ENGINE DTYPE THREADS [COMMAND...]: one line.
measure() {
    local what=$1 engine=$2 dtype=$3 threads=$4
    shift 4
    "$@" build/tests/bench/bench_forward --engine "$engine" --dtype "$dtype" --threads "$threads" --pass encode_images \
        --seconds "$seconds" "$model" "$batch" |
        sed -nE "s|^encode_images .* ([0-9.]+) /s .* ([0-9.]+) ms of processor.*|\1 \2|p" |
        { read -r rate ms; printf '%-26s %-9s %-5s %8s pictures/s %8s ms of processor time each\n' "$what" "$engine" "$dtype" "$rate" "$ms"; }
}

make_group() {
    local root=/sys/fs/cgroup name=vlmd-bench-$$
    if [ -w $root/cpu ] && mkdir $root/cpu/$name 2>/dev/null; then
        group=$root/cpu/$name
        echo 100000 >"$group/cpu.cfs_period_us" && echo 100000 >"$group/cpu.cfs_quota_us"
    elif [ -w $root/cgroup.procs ] && mkdir $root/$name 2>/dev/null; then
        group=$root/$name
        echo "100000 100000" >"$group/cpu.max"
    fi
}

# Runs a command inside the group: only the shell that becomes the command enters it.
in_group() { bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"; }

echo "$model, batch $batch, $cores cores"
for dtype in f32 bf16; do
    for threads in 1 "$cores" $((2 * cores)) $((4 * cores)); do measure "$threads threads" auto $dtype "$threads"; done
done
for threads in 1 "$cores" $((2 * cores)); do measure "$threads threads" openblas f32 "$threads"; done
trap '[ -z "$group" ] || rmdir "$group"' EXIT
make_group 2>/dev/null || group=
if [ -n "$group" ]; then
    for engine in auto openblas; do
        measure "quota 1 CPU, threads auto" $engine f32 0 in_group
        measure "quota 1 CPU, $cores threads" $engine f32 "$cores" in_group
    done
else
    for engine in auto openblas; do
        measure "one core, threads auto" $engine f32 0 taskset -c 0
        measure "one core, $cores threads" $engine f32 "$cores" taskset -c 0
    done
fi
