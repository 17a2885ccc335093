#!/bin/sh
# Builds the wasi:http component from source: build.sh OUT.wasm
set -eu
[ $# -eq 1 ] || { echo "usage: build.sh OUT.wasm" >&2; exit 2; }
. "$(dirname -- "$0")/../guest-tools.sh"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

guest_cc --target=wasm32-freestanding -Os -s -nostdlib -ffreestanding -fno-builtin -Wall -Wextra -Wno-unused-command-line-argument \
  -Wl,--no-entry -Wl,-z,stack-size=65536 -o "$work/core.wasm" "$here/hello.c"
wasm_tools component embed "$here/wit" --world hello-http "$work/core.wasm" -o "$work/embedded.wasm"
wasm_tools component new "$work/embedded.wasm" -o "$work/component.wasm"
wasm_tools validate "$work/component.wasm"
wasm_tools strip --all "$work/component.wasm" -o "$work/out.wasm"
mv "$work/out.wasm" "$1"
