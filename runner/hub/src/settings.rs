//! Where the Hub is, where its files are kept, and who asks: the same variables as in Python's
//! huggingface_hub (2.4.0), resolved here and handed on.

use crate::limits::DEFAULT_PATIENCE;
use crate::{HubError, HubLimits, endpoint};
use fault::Fault;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Hub, if `HF_ENDPOINT` names no other.
pub(crate) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// As in huggingface_hub.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to be patient with a slow Hub, in seconds.
const PATIENCE: &str = "SAE_RUN_HUB_PATIENCE";

/// The longest patience, in seconds: a day.
const MAX_PATIENCE: u64 = 24 * 60 * 60;

/// What counts as yes in a variable.
const YES: [&str; 4] = ["1", "ON", "YES", "TRUE"];

/// Where the Hub is, where its files are kept, and who asks.
#[derive(Clone)]
pub struct HubSettings {
    /// Address of the Hub, without a slash at its end and without a secret in it; `HF_ENDPOINT`.
    pub endpoint: String,
    /// Folder of the shared cache; `HF_HUB_CACHE`, or `hub` in `HF_HOME`. It need not exist.
    pub cache_dir: PathBuf,
    /// Folder in which Xet keeps what it knows about files that were sent; `HF_XET_CACHE`, or `xet` in
    /// `HF_HOME`. It need not exist.
    pub xet_cache_dir: PathBuf,
    /// Who asks; `HF_TOKEN`, or the file that `hf auth login` writes. `None`: anonymous.
    pub token: Option<Token>,
    /// Ask no server, serve what is in the cache; `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Longest wait between two pieces of an answer; `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, 10 by default.
    pub timeout: Duration,
    /// Longest wait for a connection; likewise.
    pub connect_timeout: Duration,
    /// How often a request that failed because there was no connection, or by a fault of the Hub, is
    /// repeated.
    pub n_retries: u32,
    /// About how long to wait before the first repetition; doubled for each that follows.
    pub retry_delay: Duration,
    /// How much an answer may take. `SAE_RUN_HUB_PATIENCE` gives its times, in seconds, 60 by default:
    /// see [`HubLimits::with_patience`].
    pub limits: HubLimits,
}

/// A secret: never shown, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in `text`, without white space around it and line ends in it; `None` if nothing
    /// is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.replace(['\r', '\n'], "");
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl HubSettings {
    /// The Hub at `endpoint` with the cache in `cache_dir`, asked anonymously.
    pub fn new(endpoint: &str, cache_dir: &Path) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache_dir: cache_dir.into(),
            xet_cache_dir: cache_dir.with_file_name("xet"),
            token: None,
            offline: false,
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: DEFAULT_TIMEOUT,
            n_retries: 3,
            retry_delay: Duration::from_millis(250),
            limits: HubLimits::default(),
        }
    }

    /// What the environment says.
    ///
    /// # Errors
    /// No home folder, and no variable that names a cache folder; an address that is not a URL or has a
    /// secret in it; a patience that is not a number of seconds.
    pub fn from_env() -> Result<Self, HubError> {
        of_process().settings()
    }
}

/// The folder that the Hub's Python packages share; `HF_HOME`. `None`: there is no home folder.
pub fn hf_home() -> Option<PathBuf> {
    of_process().hf_home()
}

fn of_process() -> Environment<'static> {
    Environment {
        variable: &|name| env::var_os(name),
        home: env::home_dir().filter(|home| !home.as_os_str().is_empty()),
    }
}

/// Without an address that has a secret in it.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = endpoint::checked(&self.endpoint);
        f.debug_struct("HubSettings")
            .field("endpoint", &endpoint.as_deref().unwrap_or(".."))
            .field("cache_dir", &self.cache_dir)
            .field("xet_cache_dir", &self.xet_cache_dir)
            .field("token", &self.token)
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("n_retries", &self.n_retries)
            .field("retry_delay", &self.retry_delay)
            .field("limits", &self.limits)
            .finish()
    }
}

/// The variables of a process, and its user's home folder.
struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
}

impl Environment<'_> {
    fn settings(&self) -> Result<HubSettings, HubError> {
        let endpoint = self.text("HF_ENDPOINT");
        let endpoint = endpoint::checked(endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?;
        let cache_dir = self.cache_dir().ok_or_else(no_cache_folder)?;
        let timeout = self.text("HF_HUB_DOWNLOAD_TIMEOUT");
        let timeout = timeout.and_then(|text| text.trim().parse().ok());
        let timeout = timeout.filter(|&seconds| seconds > 0);
        let timeout = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let defaults = HubSettings::new(&endpoint, &cache_dir);
        let xet_cache_dir = self.folder("HF_XET_CACHE");
        let xet_cache_dir = xet_cache_dir.or_else(|| Some(self.hf_home()?.join("xet")));
        Ok(HubSettings {
            xet_cache_dir: xet_cache_dir.unwrap_or(defaults.xet_cache_dir.clone()),
            token: self.token(),
            offline: self.offline(),
            timeout,
            connect_timeout: timeout,
            limits: HubLimits::with_patience(self.patience()?),
            ..defaults
        })
    }

    fn patience(&self) -> Result<Duration, HubError> {
        let Some(value) = self.value(PATIENCE) else {
            return Ok(DEFAULT_PATIENCE);
        };
        let seconds = value.to_str().and_then(|text| text.trim().parse().ok());
        let seconds = seconds.filter(|seconds| (1..=MAX_PATIENCE).contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            let text = format!("`{PATIENCE}` is not a whole number of seconds from 1 to a day");
            let hint = "it is 60 if the variable is not set";
            HubError::Fault(Fault::input(text).with_hint(hint))
        })
    }

    /// A variable; empty counts as unset.
    fn value(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name)?.into_string().ok()
    }

    fn is_yes(&self, name: &str) -> bool {
        self.text(name)
            .is_some_and(|value| YES.contains(&value.to_ascii_uppercase().as_str()))
    }

    /// The older name counts if the newer one is not set.
    fn offline(&self) -> bool {
        match self.value("HF_HUB_OFFLINE") {
            Some(_) => self.is_yes("HF_HUB_OFFLINE"),
            None => self.is_yes("TRANSFORMERS_OFFLINE"),
        }
    }

    fn hf_home(&self) -> Option<PathBuf> {
        let below_home = |home: &PathBuf| home.join(".cache");
        self.folder("HF_HOME").or_else(|| {
            let caches = self.folder("XDG_CACHE_HOME");
            let caches = caches.or_else(|| self.home.as_ref().map(below_home))?;
            Some(caches.join("huggingface"))
        })
    }

    fn cache_dir(&self) -> Option<PathBuf> {
        self.folder("HF_HUB_CACHE")
            .or_else(|| self.folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(self.hf_home()?.join("hub")))
    }

    fn token(&self) -> Option<Token> {
        if self.is_yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        let of_variable = |name| Token::new(&self.text(name)?);
        of_variable("HF_TOKEN")
            .or_else(|| of_variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| {
                let path = self.folder("HF_TOKEN_PATH");
                let path = path.or_else(|| Some(self.hf_home()?.join("token")))?;
                Token::new(&std::fs::read_to_string(path).ok()?)
            })
    }

    /// A path in a variable, with `~` and variables in it replaced: job scripts and containers pass
    /// them on unchanged.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let value = self.value(name)?;
        let Some(text) = value.to_str() else {
            return Some(value.into());
        };
        let path = PathBuf::from(self.expand(text));
        match (&self.home, path.strip_prefix("~")) {
            (Some(home), Ok(rest)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }

    /// `text` with `$NAME` and `${NAME}` replaced; unknown names stay.
    fn expand(&self, text: &str) -> String {
        let Some((before, after)) = text.split_once('$') else {
            return text.into();
        };
        let (name, rest) = match after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'))
        {
            Some(braced) => braced,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        let written = &text[before.len()..text.len() - rest.len()];
        let value = self.text(name).unwrap_or_else(|| written.into());
        format!("{before}{value}{}", self.expand(rest))
    }
}

fn no_cache_folder() -> HubError {
    let fault = Fault::input("there is no home folder for the cache of the Hub");
    HubError::Fault(fault.with_hint("name a folder in `HF_HOME`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        try_settings(variables).unwrap()
    }

    fn try_settings(variables: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.into())
        };
        Environment {
            variable: &variable,
            home: Some("/home/me".into()),
        }
        .settings()
    }

    #[test]
    fn xet_has_a_folder_next_to_the_cache() {
        let folder = |variables| settings(variables).xet_cache_dir.display().to_string();
        assert_eq!(folder(&[]), "/home/me/.cache/huggingface/xet");
        assert_eq!(
            folder(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]),
            "/hf/xet"
        );
        assert_eq!(folder(&[("HF_XET_CACHE", "~/x")]), "/home/me/x");
    }

    fn cache_dir(variables: &[(&str, &str)]) -> String {
        settings(variables).cache_dir.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_defaults() {
        let settings = settings(&[]);
        assert_eq!(settings.endpoint, DEFAULT_ENDPOINT);
        assert_eq!(
            settings.cache_dir,
            Path::new("/home/me/.cache/huggingface/hub")
        );
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert!(settings.token.is_none() && !settings.offline);
    }

    #[test]
    fn the_cache_folder_by_precedence() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "/c"),
            ("XDG_CACHE_HOME", "/d"),
        ];
        let expected = ["/a", "/b", "/c/hub", "/d/huggingface/hub"];
        for (n_unset, expected) in expected.into_iter().enumerate() {
            assert_eq!(cache_dir(&all[n_unset..]), expected);
        }
        assert_eq!(
            cache_dir(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/c")]),
            "/c/hub"
        );
    }

    #[test]
    fn variables_and_the_home_folder_in_paths() {
        assert_eq!(cache_dir(&[("HF_HOME", "~/hf")]), "/home/me/hf/hub");
        assert_eq!(cache_dir(&[("HF_HOME", "~")]), "/home/me/hub");
        assert_eq!(cache_dir(&[("HF_HOME", "/~/x")]), "/~/x/hub");
        let scratch = ("SCRATCH", "/s");
        assert_eq!(
            cache_dir(&[("HF_HOME", "$SCRATCH/hf"), scratch]),
            "/s/hf/hub"
        );
        let twice = ("HF_HUB_CACHE", "${SCRATCH}$SCRATCH/${NONE}$NONE$");
        assert_eq!(cache_dir(&[twice, scratch]), "/s/s/${NONE}$NONE$");
    }

    #[test]
    fn no_home_folder_needs_a_variable() {
        let environment = |variable| Environment {
            variable,
            home: None,
        };
        let error = environment(&|_| None).settings().unwrap_err();
        assert!(error.to_string().contains("no home folder"), "{error:?}");
        let named = |name: &str| (name == "HF_HUB_CACHE").then(|| "/a".into());
        assert_eq!(
            environment(&named).settings().unwrap().cache_dir,
            Path::new("/a")
        );
    }

    #[test]
    fn endpoints_lose_their_slash() {
        let endpoint = |value| settings(&[("HF_ENDPOINT", value)]).endpoint;
        assert_eq!(endpoint("http://localhost:1/hf/"), "http://localhost:1/hf");
        assert_eq!(endpoint(""), DEFAULT_ENDPOINT);
    }

    #[test]
    fn a_secret_in_the_endpoint_is_refused_and_not_shown() {
        let endpoint = "https://me:secret@host:1/hf";
        let error = try_settings(&[("HF_ENDPOINT", endpoint)]).unwrap_err();
        assert!(error.to_string().contains("HF_ENDPOINT"), "{error:?}");
        let unchecked = HubSettings::new(endpoint, Path::new("/cache"));
        assert!(!format!("{unchecked:?}").contains("secret"));
        assert!(format!("{:?}", settings(&[])).contains(DEFAULT_ENDPOINT));
    }

    #[test]
    fn patience_is_a_number_of_seconds() {
        let window = |value| {
            let settings = try_settings(&[(PATIENCE, value)])?;
            Ok::<_, HubError>(settings.limits.rate_window)
        };
        assert_eq!(window("").unwrap(), Duration::from_secs(60));
        assert_eq!(window(" 5 ").unwrap(), Duration::from_secs(5));
        for odd in ["0", "-1", "soon", "1.5", "86401", "inf"] {
            let error = window(odd).unwrap_err();
            assert!(error.to_string().contains(PATIENCE), "{error:?}");
        }
    }

    #[test]
    fn offline_by_either_name() {
        let offline = |variables: &[(&str, &str)]| settings(variables).offline;
        for yes in ["1", "on", "Yes", "TRUE"] {
            assert!(offline(&[("HF_HUB_OFFLINE", yes)]), "{yes}");
            assert!(offline(&[("TRANSFORMERS_OFFLINE", yes)]), "{yes}");
        }
        assert!(!offline(&[("HF_HUB_OFFLINE", "0")]));
        assert!(!offline(&[
            ("HF_HUB_OFFLINE", "0"),
            ("TRANSFORMERS_OFFLINE", "1")
        ]));
    }

    #[test]
    fn tokens_by_precedence() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "of-home\n").unwrap();
        std::fs::write(folder.path().join("other"), " of-path ").unwrap();
        let other = format!("{home}/other");
        let all = [
            ("HF_TOKEN", " of-\nvariable\r\n"),
            ("HUGGING_FACE_HUB_TOKEN", "of-old-variable"),
            ("HF_TOKEN_PATH", &other),
            ("HF_HOME", home),
        ];
        let token = |variables: &[(&str, &str)]| settings(variables).token;
        let expected = ["of-variable", "of-old-variable", "of-path", "of-home"];
        for (n_unset, expected) in expected.into_iter().enumerate() {
            assert_eq!(token(&all[n_unset..]), Token::new(expected));
        }
        let blank = [("HF_TOKEN", " \n"), ("HF_HOME", home)];
        assert_eq!(token(&blank), Token::new("of-home"));
        let disabled = [("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "x")];
        assert_eq!(token(&disabled), None);
    }

    #[test]
    fn no_token_is_ever_shown() {
        let settings = settings(&[("HF_TOKEN", "hf_secret")]);
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn timeouts_are_seconds() {
        let timeout = |value| settings(&[("HF_HUB_DOWNLOAD_TIMEOUT", value)]).timeout;
        assert_eq!(timeout("30"), Duration::from_secs(30));
        for odd in ["0", "-1", "soon"] {
            assert_eq!(timeout(odd), DEFAULT_TIMEOUT);
        }
    }
}
