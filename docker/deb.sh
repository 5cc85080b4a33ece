#!/usr/bin/env bash
# deb.sh: a Debian package of the release build. usage: docker/deb.sh [OUTPUT_DIR]; needs `./dev build` first.
# DEBFULLNAME and DEBEMAIL, Debian's own variables, name its maintainer.
# Depends on the packages of the shared libraries that the binary loads; libcurl4 (for `vlmd pull`) is recommended,
# OpenBLAS (for `engine = openblas`) suggested.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath "${1:-build}")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

meson configure build --prefix=/usr >/dev/null
DESTDIR=$root meson install -C build >/dev/null
strip "$root/usr/bin/vlmd"
mkdir -p "$root/etc/vlmd" "$root/usr/share/vlmd/models" "$root/usr/share/doc/vlmd" "$root/DEBIAN"
for config in models/*/config.json; do
    [ ! -f "$config" ] || cp -r "$(dirname "$config")" "$root/usr/share/vlmd/models/"
done
cp config/vlmd.conf "$root/etc/vlmd/"
cp LICENSE "$root/usr/share/doc/vlmd/copyright"
cp models/NOTICE.md README.md "$root/usr/share/doc/vlmd/"
gzip -9n "$root/usr/share/man/man1/vlmd.1"

version=$("$root/usr/bin/vlmd" --version | cut -d' ' -f2)
maintainer="${DEBFULLNAME:-vlmd} <${DEBEMAIL:-vlmd@vlmd.invalid}>"
cat <<END | gzip -9n >"$root/usr/share/doc/vlmd/changelog.gz"
vlmd ($version) unstable; urgency=medium

  * Built from $(git describe --always --dirty 2>/dev/null || echo the sources); the repository's log tells what changed.

 -- $maintainer  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")
END
# The loader's paths may lie under /lib, which is /usr/lib; and alternatives lead to the real file.
packages=$(objdump -p "$root/usr/bin/vlmd" | sed -n 's/ *NEEDED *//p' | while read -r name; do
    path=$(ldd "$root/usr/bin/vlmd" | sed -n "s|^\s*$name => \(/[^ ]*\) .*|\1|p")
    [ -z "$path" ] || dpkg -S "$(readlink -f "$path")" "/usr$path" "$path" 2>/dev/null | head -1 | cut -d: -f1
done | sort -u | paste -sd, | sed 's/,/, /g')
cat >"$root/DEBIAN/control" <<END
Package: vlmd
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Section: web
Priority: optional
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: $packages
Recommends: libcurl4 | libcurl3-gnutls
Suggests: libopenblas0
Description: questions about pictures over HTTP
 Serves vision-language models: captions, visual question answering, retrieval,
 matching, classification and embeddings, as JSON, on plain processors.
END
echo /etc/vlmd/vlmd.conf >"$root/DEBIAN/conffiles"
dpkg-deb --root-owner-group --build "$root" "$out/vlmd_${version}_$(dpkg --print-architecture).deb"
