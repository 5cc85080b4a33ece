#!/usr/bin/env bash
# prove.sh: builds the image of docker/Dockerfile and shows that it keeps its promises: what it weighs, who it runs as,
# a read-only root, no network, its health check (over TLS too), a clean end on SIGTERM with a request under way.
#
#   docker/prove.sh            as root, with buildah, podman and crun; about five minutes the first time
#   BASE=IMAGE docker/prove.sh the image to build on; default debian:12-slim, or where no registry can be reached, the
#                              same Debian made by mmdebstrap from the package mirror
#
# Images stay in build-image (`podman --root build-image/storage images`), so that the next run is quick.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -f /sys/fs/cgroup/cgroup.controllers ] && [ -z "${PROVE_INSIDE:-}" ]; then
    # crun wants cgroups v2 alone: given to it in a mount namespace of its own.
    export PROVE_INSIDE=1
    exec unshare --mount bash -c 'umount /sys/fs/cgroup/* 2>/dev/null; umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
        exec bash docker/prove.sh'
fi
here=$PWD/build-image
mkdir -p "$here"
storage=(--root "$here/storage" --runroot "$here/run")
build=(buildah "${storage[@]}")
pod=(podman "${storage[@]}" --cgroup-manager cgroupfs --log-level fatal)
run=(run --detach --name vlmd-proof --network none --cgroups disabled --read-only --tmpfs /tmp
    --ulimit "nofile=1024:$(ulimit -Hn)" --ulimit nproc=1000:1000)

fail() { echo "FAIL: $*" >&2; exit 1; }
clean() { "${pod[@]}" rm --force --volumes vlmd-proof >/dev/null 2>&1 || true; }
trap clean EXIT
clean

# ---- the image -----------------------------------------------------------------------------------
base=${BASE:-debian:12-slim}
if [ -z "${BASE:-}" ] && ! timeout 60 "${build[@]}" pull -q "docker.io/library/$base" >"$here/log" 2>&1; then
    base=localhost/debian-bookworm
    if ! "${pod[@]}" image exists $base; then
        echo "no registry answers: a base of the package mirror's Debian 12"
        mmdebstrap --variant=minbase bookworm "$here/base.tar" >"$here/log" 2>&1 || fail "mmdebstrap: $(tail -3 "$here/log")"
        "${pod[@]}" import -q "$here/base.tar" $base >/dev/null
        rm "$here/base.tar"
    fi
fi
echo "building on $base"
# What is not committed is not in the image.
git archive HEAD | { rm -rf "$here/context" && mkdir "$here/context" && tar -x -C "$here/context"; }
"${build[@]}" build --isolation chroot --format docker --pull-never --layers --build-arg "BASE=$base" \
    --ignorefile docker/Dockerfile.dockerignore -f "$here/context/docker/Dockerfile" -t vlmd "$here/context" >"$here/log" 2>&1 ||
    fail "the build: $(tail -20 "$here/log")"
rm -rf "$here/context"
bytes() { "${pod[@]}" image inspect --format '{{.Size}}' "$1"; }
mounted=$("${pod[@]}" image mount vlmd)
models=$(du -sb "$mounted/usr/share/vlmd/models" | cut -f1)
libraries=$(du -sb "$mounted/usr/lib/vlmd" | cut -f1)
"${pod[@]}" image unmount vlmd >/dev/null
beyond=$(($(bytes vlmd) - $(bytes $base) - models))
echo "image: $((beyond / 1000000)) MB beyond its base ($((libraries / 1000000)) MB of libraries), and $((models / 1000000)) MB of models"
[ $beyond -le 60000000 ] || fail "more than 60 MB beyond the base"

# ---- running -------------------------------------------------------------------------------------
# start [podman options]: waits for the image's own health check; inside() runs a program of this machine beside it.
start() {
    clean
    "${pod[@]}" "${run[@]}" "$@" vlmd >/dev/null
    for _ in $(seq 100); do
        "${pod[@]}" healthcheck run vlmd-proof >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "the health check never succeeded: $("${pod[@]}" logs vlmd-proof 2>&1 | tail -5)"
}
inside() { nsenter --net --target "$("${pod[@]}" inspect --format '{{.State.Pid}}' vlmd-proof)" "$@"; }
# Ends it as `docker stop` does; the exit status.
stop() {
    "${pod[@]}" stop --time 30 vlmd-proof >/dev/null
    "${pod[@]}" inspect --format '{{.State.ExitCode}}' vlmd-proof
}

start
who=$("${pod[@]}" exec vlmd-proof sh -c 'id -u; cat /proc/1/comm; grep CapEff /proc/1/status | cut -f2
    touch /usr/x 2>/dev/null && echo root is writable; touch /data/x && echo data')
[ "$who" = "10001
vlmd
0000000000000000
data" ] || fail "expected user 10001, vlmd as process 1, no capabilities, /data alone writable, found: $who"
said=$(inside curl -sS --data-binary @models/samples/a-dog.jpg -H 'Content-Type: image/jpeg' localhost:8080/v1/caption)
grep -q '"caption":"' <<<"$said" || fail "a caption: $said"
echo "runs as user 10001 without capabilities, network or a writable root; healthy; $said"

inside curl -sS -F image=@models/samples/a-dog.jpg -F num_beams=8 -F min_tokens=400 -F max_tokens=400 \
    -o "$here/reply" -w '%{http_code}' localhost:8080/v1/caption >"$here/status" &
request=$!
until inside curl -s localhost:8080/metrics | grep -q '^vlmd_requests_in_flight [1-9]' || [ -s "$here/status" ]; do sleep 0.02; done
status=$(stop)
wait $request
[ "$status/$(cat "$here/status")" = 0/200 ] || fail "SIGTERM: exit status $status, the request under way got $(cat "$here/status")"
echo "SIGTERM: the request under way was answered, exit status 0"

mkdir -p "$here/tls"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$here/tls/key.pem" -out "$here/tls/cert.pem" \
    -days 2 -subj /CN=localhost 2>/dev/null
chmod 755 "$here/tls" && chmod 644 "$here/tls"/*
start --volume "$here/tls:/tls:ro" --env VLMD_TLS_CERT=/tls/cert.pem --env VLMD_TLS_KEY=/tls/key.pem
inside curl -sS --cacert "$here/tls/cert.pem" https://localhost:8080/readyz | grep -q ready || fail "no TLS"
[ "$(stop)" = 0 ] || fail "the end over TLS"
echo "healthy over TLS with a certificate of its own"
