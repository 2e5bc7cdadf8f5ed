//! The WebAssembly host that runs recipes in a sandbox.
