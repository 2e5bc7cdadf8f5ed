//! The Hub as the environment names it, with the token of the command line if there is one.

use crate::show::table;
use hub::{Hub, HubError, HubSettings, Token};
use std::sync::OnceLock;

/// Kept here and handed to no one, so that no record or message can have it.
static TOKEN: OnceLock<Token> = OnceLock::new();

/// The only one, for what it waits because a Hub asks for it has a sum.
static HUB: OnceLock<Hub> = OnceLock::new();

/// Asks the Hub with `token` from now on; the first one given counts.
pub(crate) fn use_token(token: Token) {
    // A second one would be a second command.
    let _ = TOKEN.set(token);
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
    let hub = Hub::new(HubSettings { token, ..settings })?;
    let hub = hub.telling(|notice| table::note(&notice.to_string()));
    Ok(HUB.get_or_init(|| hub).clone())
}
