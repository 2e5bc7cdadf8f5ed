//! The Hub as the environment names it, with the token of the command line where there is one.

use hub::{Hub, HubError, HubSettings, Token};
use std::sync::OnceLock;

/// Kept here and handed to nobody, so that no record or message can have it.
static TOKEN: OnceLock<Token> = OnceLock::new();

/// Asks the Hub with `token` from now on; the first one given counts.
pub(crate) fn use_token(token: Token) {
    // A second one would be a second command.
    let _ = TOKEN.set(token);
}

/// The Hub.
///
/// # Errors
/// No home folder for the cache, or an address that is none.
pub(crate) fn hub() -> Result<Hub, HubError> {
    let settings = HubSettings::from_env()?;
    let token = TOKEN.get().cloned().or(settings.token);
    Hub::new(HubSettings { token, ..settings })
}
