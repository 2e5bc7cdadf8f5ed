//! One spelling of options: with dashes, as `--help` shows them. Underscores, which sparsify has, mean the same.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Words as typed, with dashes for the underscores in the names of options. What follows `=` or the word `--` is not
/// an option's name.
pub(crate) fn with_dashes(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut are_options = true;
    let words = words.map(|word| {
        are_options &= word != "--";
        if are_options { dashed(word) } else { word }
    });
    words.collect()
}

fn dashed(word: OsString) -> OsString {
    let mut bytes = word.into_vec();
    if bytes.starts_with(b"--") {
        let name = bytes.iter_mut().take_while(|byte| **byte != b'=');
        name.filter(|byte| **byte == b'_')
            .for_each(|byte| *byte = b'-');
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use clap::Command;

    fn typed(words: &[&str]) -> Vec<OsString> {
        with_dashes(words.iter().map(OsString::from))
    }

    #[test]
    fn names_of_options_have_dashes_and_values_stay() {
        let words = ["train", "a_b", "--ctx_len=a_b", "--save_dir", "c_d", "-x_y"];
        let expected = ["train", "a_b", "--ctx-len=a_b", "--save-dir", "c_d", "-x_y"];
        assert_eq!(typed(&words), expected);
        let words = ["sql", "--max_rows", "1", "--", "--no_option"];
        let expected = ["sql", "--max-rows", "1", "--", "--no_option"];
        assert_eq!(typed(&words), expected);
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let word = OsString::from_vec(b"--run_name=\xff_".to_vec());
        let expected = OsString::from_vec(b"--run-name=\xff_".to_vec());
        assert_eq!(with_dashes([word].into_iter()), [expected]);
    }

    #[test]
    fn no_option_of_any_command_is_written_with_underscores() {
        fn check(command: &Command) {
            for arg in command.get_arguments() {
                let names = arg.get_long_and_visible_aliases().unwrap_or_default();
                let hidden = arg.get_all_aliases().unwrap_or_default();
                for name in names.iter().chain(&hidden) {
                    assert!(!name.contains('_'), "--{name} of {}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
