//! What a command did.

use std::fmt;
use std::process::ExitStatus;

/// Exit code, standard output and standard error of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The same, if the exit code is `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        self
    }

    /// The same, if all went well.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// The same, if it was refused as bad input: exit code 2, and an `error:` line with all of
    /// `parts`.
    #[track_caller]
    pub(crate) fn refuses(self, parts: &[&str]) -> Self {
        let outcome = self.exits(2);
        let error = outcome.line("error: ");
        for part in parts {
            assert!(error.contains(part), "no `{part}` in the error\n{outcome}");
        }
        outcome
    }

    /// The same, if jobs have failed: exit code 1, and an `error:` line with all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, parts: &[&str]) -> Self {
        let outcome = self.exits(1);
        let error = outcome.line("error: ");
        for part in parts {
            assert!(error.contains(part), "no `{part}` in the error\n{outcome}");
        }
        outcome
    }

    /// The same, if it says what to do in a `hint:` line with `part`.
    #[track_caller]
    pub(crate) fn hints(self, part: &str) -> Self {
        let hint = self.line("hint: ");
        assert!(hint.contains(part), "no `{part}` in the hint\n{self}");
        self
    }

    #[track_caller]
    fn line(&self, start: &str) -> &str {
        let line = self.stderr.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no `{start}`\n{self}"))
    }

    /// The same, if standard error says all of `parts`.
    #[track_caller]
    pub(crate) fn remarks(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no remark `{part}`\n{self}");
        }
        self
    }

    /// The object on standard output, whose shape has a version.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        let json: serde_json::Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"));
        assert_eq!(json["schema"], 1, "{self}");
        json
    }

    /// What is listed under a key of that object.
    #[track_caller]
    pub(crate) fn listed(&self, key: &str) -> Vec<serde_json::Value> {
        match &self.json()[key] {
            serde_json::Value::Array(listed) => listed.clone(),
            other => panic!("{other}\n{self}"),
        }
    }
}

/// As it is shown in snapshots.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{status}\n----- stdout -----\n{stdout}\n----- stderr -----\n{stderr}"
        )
    }
}
