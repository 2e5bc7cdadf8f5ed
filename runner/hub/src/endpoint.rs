//! The address of a Hub.

use crate::HubError;
use fault::Fault;
use reqwest::Url;

/// `endpoint` as it is asked at, without a slash at its end. Addresses are shown, kept in records and
/// handed to stores, so one with a secret in it is refused.
///
/// # Errors
/// It is not the address of a server, or has more than that.
pub(crate) fn checked(endpoint: &str) -> Result<String, HubError> {
    let url = parse(endpoint)?;
    match () {
        () if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
            Err(bad("is not an address of http or https"))
        }
        () if !url.username().is_empty() || url.password().is_some() => {
            Err(bad("has a user name or a password in it"))
        }
        () if url.query().is_some() || url.fragment().is_some() => {
            Err(bad("has more after its path (`?` or `#`)"))
        }
        () => Ok(url.as_str().trim_end_matches('/').into()),
    }
}

/// An address, whatever else it has.
pub(crate) fn parse(endpoint: &str) -> Result<Url, HubError> {
    Url::parse(endpoint).map_err(|_| bad("is not an address"))
}

/// It is not shown, for it may hold a secret.
fn bad(reason: &str) -> HubError {
    let message = format!("the Hub's address, as `HF_ENDPOINT` gives it, {reason}");
    let hint = "it takes an address such as `https://host`; a token belongs in `HF_TOKEN`";
    HubError::Fault(Fault::input(message).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    #[test]
    fn addresses_lose_their_slash() {
        for (endpoint, expected) in [
            ("https://huggingface.co", "https://huggingface.co"),
            ("http://localhost:1/hf/", "http://localhost:1/hf"),
            (" HTTPS://Host/ ", "https://host"),
            ("https://@host", "https://host"),
        ] {
            assert_eq!(checked(endpoint).unwrap(), expected, "{endpoint}");
        }
    }

    #[test]
    fn no_secret_is_in_an_address_or_in_what_is_said_of_it() {
        for endpoint in [
            "https://me:hf_secret@host",
            "https://hf_secret@host/hf",
            "https://:hf_secret@host",
            "https://host/?token=hf_secret",
            "https://host?hf_secret",
            "https://host/#hf_secret",
            "https:///?hf_secret",
            "hf_secret",
            "file:///hf_secret",
            "ftp://host/hf_secret",
            "mailto:hf_secret@host",
            "https://me:hf_secret@",
        ] {
            let error = checked(endpoint).unwrap_err();
            let texts = [
                error.to_string(),
                format!("{error:?}"),
                error.hint().unwrap(),
            ];
            for text in texts {
                assert!(!text.contains("hf_secret"), "{endpoint}: {text}");
            }
            assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
        }
    }
}
