//! What to do about what went wrong.

use crate::{HubError, RepoKind};
use std::path::Path;

impl HubError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadRepoId { .. } => "ids look like `name` or `owner/name`",
            Self::BadRevision { .. } => "look at the repository's page for its branches and tags",
            Self::BadEndpoint { .. } => {
                "it takes an address such as `https://host`; a token belongs into `HF_TOKEN`"
            }
            Self::BadPatience { .. } => "it is 60 where the variable is not set",
            Self::NoCacheFolder => "name a folder in `HF_HOME`",
            Self::NoSuchRepo {
                kind, has_token, ..
            } => return Some(name_hint(*kind, *has_token)),
            Self::NoAccess { .. } => return self.access_hint(),
            Self::TokenRejected { .. } => {
                "make a new one in the settings of your account, and set `HF_TOKEN` or run \
                 `hf auth login`"
            }
            Self::NoSuchRevision { .. } => "look at the repository's page for branches and tags",
            Self::NoConfig { .. } => "a model that transformers loads has one",
            Self::Adapter { repo, .. } => return Some(adapter_hint(repo)),
            Self::NoSafetensors { others, .. } => return Some(convert_hint(others)),
            Self::NotCached { .. } | Self::NotListed { .. } => {
                "unset `HF_HUB_OFFLINE`, or run this once where there is a network and the same \
                 cache"
            }
            Self::RateLimited { has_token, .. } => match has_token {
                true => "wait, then run it again; what was downloaded is kept",
                false => "wait, then run it again; with a token (`HF_TOKEN`) the limits are higher",
            },
            Self::Network { .. } => {
                "where there is no network, `HF_HUB_OFFLINE=1` takes what is in the cache"
            }
            Self::Server { status, .. } | Self::Refused { status, .. } if *status >= 500 => {
                "this is the Hub's own trouble; try again later"
            }
            Self::AnswerTooLong { .. } | Self::EndlessListing { .. } | Self::BadSize { .. } => {
                "is `HF_ENDPOINT` a Hub that you trust?"
            }
            Self::TooSlow { .. } | Self::TooLate { .. } => {
                "run it again, what was downloaded is kept; on a slow line, \
                 `SAE_RUN_HUB_PATIENCE=300` waits five times as long"
            }
            Self::FileTooLong { .. } => "is it the model that you mean?",
            Self::NoSpace { .. } => {
                "make room there, or name a folder of another disk in `HF_HUB_CACHE`"
            }
            Self::Answer { .. } => "is `HF_ENDPOINT` a Hub, and no page of a proxy in between?",
            Self::DamagedDownload { .. } => "it was removed; run this again to download it anew",
            Self::DamagedCache { path, .. } => return Some(damaged_hint(path)),
            Self::Io { .. } => "can the folder be written, and is there space on the disk?",
            Self::OfflineUpload { .. } => "unset `HF_HUB_OFFLINE`",
            Self::NoToken { .. } => "log in with `hf auth login`, or set `HF_TOKEN`",
            Self::NoWriteAccess { .. } => {
                "make a token with the right to write in the settings of your account; in an \
                 organization, its owner must let you"
            }
            Self::NoOwner { .. } => "ids of your own repositories look like `owner/name`",
            Self::NameTaken { .. } => "choose another name",
            Self::NotABranch { .. } => "name a branch; it is made where it is missing",
            Self::SourceChanged { .. } => "run it again when nothing writes to the file",
            Self::IgnoredUpload { .. } => "remove the line from .gitignore of the repository",
            Self::UnknownTransfer { .. } => "is there a newer version of this program?",
            Self::Store { .. } | Self::CommitUnknown { .. } => {
                "run it again: what has arrived is not sent twice"
            }
            Self::Overtaken { .. } => "run it again, or upload to a branch of your own",
            Self::NoSuchFile { .. } => "look at the repository's page for its files",
            Self::BadCard { .. } => "copy the data set's files into a folder, and name that",
            Self::Server { .. }
            | Self::Refused { .. }
            | Self::BadUploadPath { .. }
            | Self::DuplicateUpload { .. }
            | Self::TooLargeForCommit { .. }
            | Self::BadFileName { .. }
            | Self::BadIndex { .. }
            | Self::BadShard { .. }
            | Self::Thread { .. } => return None,
        };
        Some(hint.into())
    }

    fn access_hint(&self) -> Option<String> {
        let Self::NoAccess {
            page,
            is_gated,
            has_token,
            ..
        } = self
        else {
            return None;
        };
        let accept = format!("accept the licence at {page}");
        let token = "set `HF_TOKEN` or log in with `hf auth login`";
        Some(match (is_gated, has_token) {
            (true, true) => format!("{accept}, with the account that the token belongs to"),
            (true, false) => format!("{accept}, then {token}"),
            (false, true) => "does the token have the right to read this repository?".into(),
            (false, false) => token.into(),
        })
    }
}

fn name_hint(kind: RepoKind, has_token: bool) -> String {
    match has_token {
        true => "is the name right, and may the token's owner see it if it is private?".into(),
        false => format!(
            "is the name right? private {kind}s need a token: log in with `hf auth login`, or set \
             `HF_TOKEN`"
        ),
    }
}

fn damaged_hint(path: &Path) -> String {
    let path = path.display();
    format!(
        "delete `{path}` to download it anew; to use an edited file, copy its folder and name the copy"
    )
}

fn adapter_hint(repo: &str) -> String {
    format!(
        "merge it with its base model, in Python \
         `AutoPeftModelForCausalLM.from_pretrained(\"{repo}\").merge_and_unload()\
         .save_pretrained(FOLDER)`, and copy the tokenizer there"
    )
}

fn convert_hint(others: &[String]) -> String {
    let convert = "load it with transformers and save it with `save_pretrained`, which writes \
                   safetensors, then name that folder";
    match others {
        [] => "there are no weights in other formats either".into(),
        others => format!("it has {}; {convert}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_about_access_say_what_is_missing() {
        let hint = |is_gated, has_token| {
            let error = HubError::NoAccess {
                repo: "a/b".into(),
                page: "https://host/datasets/a/b".into(),
                is_gated,
                has_token,
            };
            (error.to_string(), error.hint().unwrap())
        };
        let (message, gated) = hint(true, false);
        assert_eq!(
            message,
            "no access to `a/b`: it is gated, and there is no token"
        );
        assert!(
            gated.contains("accept the licence at https://host/datasets/a/b")
                && gated.contains("HF_TOKEN"),
            "{gated}"
        );
        let (_, with_token) = hint(true, true);
        assert!(!with_token.contains("HF_TOKEN"), "{with_token}");
        let (_, private) = hint(false, false);
        assert!(!private.contains("licence"), "{private}");
    }

    #[test]
    fn the_hint_names_the_formats_that_are_there() {
        let error = HubError::NoSafetensors {
            repo: "a/b".into(),
            commit: "0".repeat(40),
            others: vec!["pytorch_model.bin".into(), "tf_model.h5".into()],
        };
        let hint = error.hint().unwrap();
        assert!(
            hint.starts_with("it has pytorch_model.bin, tf_model.h5;"),
            "{hint}"
        );
        assert!(hint.contains("save_pretrained"), "{hint}");
    }
}
