//! Settings as the command line has them.

use toml::Value;

/// A setting as given on the command line.
#[derive(Clone, Debug)]
pub struct Given {
    /// The option as typed, for messages.
    pub option: String,
    /// Its path in a sweep, such as `train.k`.
    pub path: Vec<&'static str>,
    /// What it is set to.
    pub value: Value,
}

impl Given {
    /// `option` is what was typed, `path` where its `value` goes in a sweep.
    pub fn new(option: &str, path: &[&'static str], value: impl Into<Value>) -> Self {
        Self {
            option: option.into(),
            path: path.into(),
            value: value.into(),
        }
    }

    /// A line of TOML that says the same.
    pub fn line(&self) -> String {
        format!("{} = {}\n", self.path.join("."), self.value)
    }
}
