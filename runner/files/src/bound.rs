//! How long files may be that are read into memory: some ten times the longest that are met.

/// A sweep, a model's or an SAE's settings, a list of files, a recipe in Python, a request, a query.
pub const SETTINGS: u64 = 16 << 20;

/// A tokenizer. That of Gemma 3 has 33 MB.
pub const TOKENIZER: u64 = 256 << 20;

/// A recipe that is compiled already.
pub const COMPONENT: u64 = 64 << 20;

/// The recipe engine, as it is and compiled for this machine.
pub const ENGINE: u64 = 512 << 20;

/// What this program wrote itself: orders, states, digests. An order repeats the settings of every job.
pub const OWN: u64 = 1 << 30;
