//! The sweep that the tests run, as a whole and in variations.

use super::text;
use std::path::{Path, PathBuf};

/// A fixture, next to the tests.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join(name)
}

/// Eight jobs, twelve SAEs, eight updates; on the CPU and on one thread, so that equal runs give
/// equal bits.
pub(crate) fn tiny_sweep() -> String {
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    format!(
        "name = 'tiny'\n\
         [train]\n\
         model = '{}'\n\
         dataset = '{}'\n\
         ctx_len = 64\n\
         batch_size = 8\n\
         max_examples = 64\n\
         save_every = 5\n\
         [vary]\n\
         k = [4, 8]\n\
         expansion_factor = [2, 4]\n\
         hookpoints = [['layers.0'], ['layers.1.mlp', 'layers.2']]\n\
         [launch]\n\
         device = 'cpu'\n\
         threads = 1\n\
         retries = 0\n",
        text(&model),
        text(&dataset),
    )
}

/// A part of the tiny sweep that is soon done: two jobs, three SAEs.
pub(crate) fn small_sweep() -> String {
    let sweep = tiny_sweep_with("k = ", "k = [4]");
    replace_line(&sweep, "expansion_factor", "expansion_factor = [2]")
}

/// The tiny sweep with another text instead of the line that begins with `start`.
pub(crate) fn tiny_sweep_with(start: &str, text: &str) -> String {
    replace_line(&tiny_sweep(), start, text)
}

/// `sweep` with another text instead of the line that begins with `start`.
pub(crate) fn replace_line(sweep: &str, start: &str, text: &str) -> String {
    let mut lines: Vec<&str> = sweep.lines().collect();
    lines[index_of(sweep, start)] = text;
    lines.join("\n") + "\n"
}

/// How an error names the line of the tiny sweep that begins with `start`: `tiny.toml:5: `.
pub(crate) fn location_of(start: &str) -> String {
    format!("tiny.toml:{}: ", 1 + index_of(&tiny_sweep(), start))
}

fn index_of(sweep: &str, start: &str) -> usize {
    let found = sweep.lines().position(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line begins with `{start}`"))
}
