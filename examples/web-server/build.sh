#!/bin/sh
# Makes the demo's container image from Debian's busybox-static, as an OCI image layout: ./build.sh OUT_DIR
# No container engine is needed, and the same package gives the same bytes.
set -eu
out=$1
here=$(cd "$(dirname "$0")" && pwd)
cache=${CAIRN_CACHE:-$here/../../target/guests}/web-server
mkdir -p "$cache"

stamp=$(cat "$0" "$here"/www/* | sha256sum | cut -d' ' -f1)
[ "$(cat "$out/.stamp" 2>/dev/null || true)" != "$stamp" ] || exit 0

if ! [ -x "$cache/package/bin/busybox" ] && ! [ -x "$cache/package/usr/bin/busybox" ]; then
    (cd "$cache" && rm -f ./*.deb && apt-get download -qq busybox-static 2>/dev/null) ||
        { echo "error: apt-get can't fetch busybox-static; run apt-get update and try again" >&2; exit 1; }
    dpkg-deb -x "$cache"/busybox-static_*.deb "$cache/package"
fi
busybox=$cache/package/bin/busybox
[ -x "$busybox" ] || busybox=$cache/package/usr/bin/busybox

root=$cache/root
rm -rf "$root" "$out.part"
mkdir -p "$root/bin" "$root/www" "$root/etc" "$root/data" "$root/tmp" "$out.part/blobs/sha256"
cp "$busybox" "$root/bin/busybox"
for applet in cat echo env false hostname httpd id ls mkdir printenv sh sleep touch true wget; do
    ln -s busybox "$root/bin/$applet"
done
cp "$here"/www/* "$root/www/"
printf 'root:x:0:0:root:/:/bin/sh\nwww:x:1000:1000:www:/:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\nwww:x:1000:\n' > "$root/etc/group"
chmod 1777 "$root/data" "$root/tmp"

# blob FILE: moves it into the layout; prints "sha256:… size".
blob() {
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$out.part/blobs/sha256/$digest"
    echo "sha256:$digest $size"
}

tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$root" -cf "$cache/layer.tar" .
diff_id=sha256:$(sha256sum "$cache/layer.tar" | cut -d' ' -f1)
gzip -nf "$cache/layer.tar"
set -- $(blob "$cache/layer.tar.gz")
layer="{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"$1\",\"size\":$2}"

cat > "$cache/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["httpd","-f","-v","-p","8080","-h","/www"],"ExposedPorts":{"8080/tcp":{}},"User":"www"},"rootfs":{"type":"layers","diff_ids":["$diff_id"]}}
JSON
set -- $(blob "$cache/config.json")
config="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"$1\",\"size\":$2}"

echo "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":$config,\"layers\":[$layer]}" > "$cache/manifest.json"
set -- $(blob "$cache/manifest.json")
echo "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$1\",\"size\":$2,\"annotations\":{\"org.opencontainers.image.ref.name\":\"latest\"}}]}" > "$out.part/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' > "$out.part/oci-layout"
echo "$stamp" > "$out.part/.stamp"
rm -rf "$out"
mv "$out.part" "$out"
