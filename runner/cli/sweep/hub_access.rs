//! The Hub as the environment names it, with the token of the command line if there is one.

use crate::show::table;
use hub::{Hub, HubError, HubSettings, Token};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a plan waits for a connection.
const PLANNING_PATIENCE: Duration = Duration::from_secs(2);

/// Kept here and handed to no one, so that no record or message can have it.
static TOKEN: OnceLock<Token> = OnceLock::new();

/// The only one, for what it waits because a Hub asks for it has a sum.
static HUB: OnceLock<Hub> = OnceLock::new();

/// Whether the Hub did not answer a plan, which then asks it no more.
static IS_OUT_OF_REACH: AtomicBool = AtomicBool::new(false);

/// How the Hub is asked for the model called `name`, of which a plan needs the shapes.
pub(crate) fn for_shapes(name: &str) -> Asked {
    if facts::published_config(name).is_some() {
        Asked::Briefly
    } else {
        Asked::Patiently
    }
}

/// How the Hub is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// For what has to be there.
    Patiently,
    /// For what a plan can do without: once, and no more if the Hub does not answer.
    Briefly,
}

/// Asks the Hub with `token` from now on; the first one given counts.
pub(crate) fn use_token(token: Token) {
    // A second one would be a second command.
    let _ = TOKEN.set(token);
}

/// Remembers if `error` says that there is no way to the Hub.
pub(crate) fn remember_reach(error: &HubError) {
    if matches!(error, HubError::Network(_)) {
        IS_OUT_OF_REACH.store(true, Ordering::Relaxed);
    }
}

/// Whether it was found that there is no way to the Hub.
pub(crate) fn is_out_of_reach() -> bool {
    IS_OUT_OF_REACH.load(Ordering::Relaxed)
}

/// The Hub, asked like this.
///
/// # Errors
/// As [`hub()`].
pub(crate) fn hub_asked(how: Asked) -> Result<Hub, HubError> {
    let hub = hub()?;
    if how == Asked::Patiently {
        return Ok(hub);
    }
    let settings = hub.settings();
    let hub = Hub::new(HubSettings {
        n_retries: 0,
        connect_timeout: settings.connect_timeout.min(PLANNING_PATIENCE),
        offline: settings.offline || is_out_of_reach(),
        ..settings.clone()
    })?;
    Ok(reporting(hub))
}

/// The same, of which the user sees when it asks to wait.
fn reporting(hub: Hub) -> Hub {
    hub.telling(|notice| table::note(&notice.to_string()))
}

/// The Hub. When it asks to wait, the user sees a message.
///
/// # Errors
/// No home folder for the cache, or `HF_ENDPOINT` is not an address or has a secret in it.
pub(crate) fn hub() -> Result<Hub, HubError> {
    if let Some(hub) = HUB.get() {
        return Ok(hub.clone());
    }
    let settings = HubSettings::from_env()?;
    let token = TOKEN.get().cloned().or(settings.token);
    let hub = reporting(Hub::new(HubSettings { token, ..settings })?);
    Ok(HUB.get_or_init(|| hub).clone())
}
