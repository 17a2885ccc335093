//! Runs one WebAssembly component or module through wasmtime.

fn main() {}
