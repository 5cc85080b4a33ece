#!/usr/bin/env bash
# run.sh: the benchmarks, on the embedded models or on the checkpoint directories that are given (the first also over HTTP).
#
#   ./dev bench [DIR...]        (`./dev bench --peers` is peers.py)
#
# Nothing else should compute meanwhile; compare figures of one run only.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=build/tests/bench
picture=tests/data/images/bench_640x480.jpg

echo "== machine"
lscpu | sed -n 's/^Model name: *//p; s/^CPU(s): */cores: /p' | head -2
$bin/bench_limits
echo "== kernels (matrix products, attention, norms)"
$bin/bench_nn
echo "== pictures (decode, resize, normalise)"
$bin/bench_image $picture
echo "== tokenizers"
$bin/bench_tokenizer models/vlmd-clip
$bin/bench_tokenizer models/vlmd-caption
echo "== collections: 200,000 vectors of 512 (a million: bench_search 1000000; faiss beside it: faiss_search.py)"
$bin/bench_search 200000
models=("$@")
[ $# = 0 ] && models=(models/vlmd-clip models/vlmd-caption models/vlmd-vqa models/vlmd-itm)
for model in "${models[@]}"; do
    echo "== forward passes: $model"
    $bin/bench_forward "$model" 1 8 32
done
echo "== over HTTP: ${1:-models/vlmd-clip}, pictures of 640×480 in base64, no feature cache"
log=$(mktemp)
build/vlmd serve --listen 127.0.0.1:0 --store memory: --set log_level=error --set feature_cache_mb=0 \
    --model "m=${1:-models/vlmd-clip}" >"$log" &
server=$!
trap 'kill $server; rm -f "$log"' EXIT
until grep -q ' ready on ' "$log"; do sleep 0.05; done
url=$(sed -n 's/.* ready on \(http:[^ ]*\) .*/\1/p' "$log")
for clients in 1 16; do
    python3 tests/bench/http_load.py "$url" --clients $clients --seconds 8 --picture $picture
done
kill $server
wait $server
echo "== over HTTP: the embedded captioner at and past what it can, no feature cache, a queue of 64"
build/vlmd serve --listen 127.0.0.1:0 --store memory: --set log_level=error --set feature_cache_mb=0 \
    --set max_queue=64 --model m=models/vlmd-caption >"$log" &
server=$!
until grep -q ' ready on ' "$log"; do sleep 0.05; done
url=$(sed -n 's/.* ready on \(http:[^ ]*\) .*/\1/p' "$log")
python3 tests/bench/open_load.py "$url" --picture $picture --pid $server
echo "== generation: batches and caches"
for model in models/vlmd-caption models/vlmd-vqa; do $bin/bench_runtime $model; done
