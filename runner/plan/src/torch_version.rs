//! Versions of PyTorch.

use std::fmt;
use std::fs;
use std::path::Path;

/// A version of PyTorch, such as `2.13.0+cu130`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorchVersion(String);

impl TorchVersion {
    /// Of the PyTorch, or the archive of libtorch, in a folder.
    pub fn in_folder(folder: &Path) -> Option<Self> {
        let files = ["version.py", "build-version"].map(|name| folder.join(name));
        let mut texts = files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok());
        texts.find_map(|text| Self::of_file(&text))
    }

    /// From the text of `version.py` in PyTorch's package, or of `build-version` in an archive of libtorch.
    fn of_file(text: &str) -> Option<Self> {
        let in_python = text
            .lines()
            .find_map(|line| line.strip_prefix("__version__"));
        let version = match in_python {
            Some(rest) => rest.split(['\'', '"']).nth(1)?,
            None => text.trim(),
        };
        let starts_with_digit = version.starts_with(|first: char| first.is_ascii_digit());
        let is_one_word = !version.contains(char::is_whitespace);
        (starts_with_digit && is_one_word).then(|| Self(version.to_owned()))
    }

    /// `2.13` of `2.13.0+cu130`: what binary interfaces depend on.
    pub fn minor(&self) -> &str {
        let second_dot = self.0.match_indices('.').nth(1);
        second_dot.map_or(&self.0, |(at, _)| &self.0[..at])
    }
}

impl fmt::Display for TorchVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_files_are_read() {
        let package = "from typing import Optional\n\n__version__ = '2.15.0+cpu'\ndebug = False\n";
        let cases = [
            (package, "2.15.0+cpu", "2.15"),
            ("2.11.0\n", "2.11.0", "2.11"),
        ];
        for (text, version, minor) in cases {
            let found = TorchVersion::of_file(text).unwrap();
            assert_eq!(found.to_string(), version);
            assert_eq!(found.minor(), minor);
        }
        for text in ["", "no version", "__version__ = ", "2.1 and more"] {
            assert_eq!(TorchVersion::of_file(text), None, "{text}");
        }
    }
}
