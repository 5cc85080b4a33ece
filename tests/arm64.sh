#!/usr/bin/env bash
# arm64.sh: builds for 64-bit ARM and runs kernels, goldens and a caption under emulation: NEON paths, with no ARM machine.
#
# The libraries come from Debian's arm64 packages, unpacked into a directory of their own; nothing of this system changes
# but for the compiler and the emulator, which `./dev arm64` installs.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/build-arm64
root=$build/sysroot
libraries=$root/usr/lib/aarch64-linux-gnu
blas=$libraries/openblas-pthread

fetch_libraries() {
    local apt=$build/apt package link
    [ -e "$root/complete" ] && return
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
    : >"$apt/status"
    cat >"$apt/conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
END
    apt-get -q -c "$apt/conf" update
    # shellcheck disable=SC2046
    apt-get -q -y -c "$apt/conf" install --no-install-recommends --download-only libc6 check \
        $(sed -n 's/^\(lib.*-dev\)$/\1/p; s/^\(zlib.*-dev\)$/\1/p' docker/packages.txt)
    for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$root"; done
    find "$libraries" -maxdepth 2 -type l -lname '/*' | while read -r link; do
        ln -sf "$root$(readlink "$link")" "$link" # absolute links would lead to this system
    done
    touch "$root/complete"
}

write_cross_file() {
    cat >"$build/cross.ini" <<END
[binaries]
c = 'aarch64-linux-gnu-gcc'
ar = 'aarch64-linux-gnu-gcc-ar'
strip = 'aarch64-linux-gnu-strip'
pkgconfig = 'pkg-config'
exe_wrapper = ['qemu-aarch64', '-L', '$root', '-E', 'LD_LIBRARY_PATH=$libraries:$blas']
[properties]
sys_root = '$root'
pkg_config_libdir = '$libraries/pkgconfig:$root/usr/share/pkgconfig:$blas/pkgconfig'
[built-in options]
c_args = ['--sysroot=$root', '-isystem', '$root/usr/include', '-isystem', '$root/usr/include/aarch64-linux-gnu']
c_link_args = ['--sysroot=$root', '-Wl,-rpath-link,$libraries', '-Wl,-rpath-link,$blas']
[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
END
}

emulated() {
    qemu-aarch64 -L "$root" -E "LD_LIBRARY_PATH=$libraries:$blas" -E CK_FORK=no -E "VLMD_TEST_DATA=$PWD/tests/data" "$@"
}

mkdir -p "$build"
fetch_libraries >"$build/apt.log" 2>&1 || { cat "$build/apt.log"; exit 1; }
write_cross_file
[ -f "$build/out/build.ninja" ] || meson setup "$build/out" --cross-file "$build/cross.ini" -Dwerror=true >"$build/setup.log" ||
    { cat "$build/setup.log"; exit 1; }
tests="test_nn test_nn_conv test_nn_packed test_models_dtype test_models"
# shellcheck disable=SC2046
ninja -C "$build/out" vlmd $(printf 'tests/%s ' $tests) >"$build/build.log" || { cat "$build/build.log"; exit 1; }
for test in $tests; do
    echo "$test"
    emulated "$build/out/tests/$test"
done
caption=$(emulated "$build/out/vlmd" caption models/samples/a-dog.jpg)
echo "models/samples/a-dog.jpg: $caption"
[ -n "$caption" ]
