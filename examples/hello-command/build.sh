#!/bin/sh
# Builds the command from source: build.sh OUT.wasm [COMPONENT.wasm]
# OUT.wasm is a WASI preview 1 module; COMPONENT.wasm, where it is asked for, the same program as a WASI 0.2 component,
# by the adapter that wasmtime publishes as a crate (so this needs cargo).
set -eu
[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "usage: build.sh OUT.wasm [COMPONENT.wasm]" >&2; exit 2; }
. "$(dirname -- "$0")/../guest-tools.sh"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

guest_cc --target=wasm32-wasi -Os -s -Wall -Wextra -Wl,-z,stack-size=131072 -o "$work/module.wasm" "$here/hello.c"
if [ $# -eq 2 ]; then
  adapter=$(wasi_adapter command)
  wasm_tools component new "$work/module.wasm" --adapt "wasi_snapshot_preview1=$adapter" -o "$work/component.wasm"
  wasm_tools validate "$work/component.wasm"
  mv "$work/component.wasm" "$2"
fi
mv "$work/module.wasm" "$1"
