//! What all requests about one repository share: who asks, where, and how long it may wait.

use crate::name::{RepoId, RepoKind};
use crate::waits::Waits;
use crate::{HubError, HubSettings, Notice, Token, endpoint};
use reqwest::{Client, ClientBuilder, Url};
use std::time::Duration;
use tokio::time::sleep;

/// Who asks the Hub about which repository.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a HubSettings,
    pub(crate) waits: &'a Waits,
    pub(crate) repo: &'a RepoId,
    pub(crate) client: Client,
    endpoint: Url,
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        settings: &'a HubSettings,
        waits: &'a Waits,
        repo: &'a RepoId,
    ) -> Result<Self, HubError> {
        let builder = client_builder(settings).read_timeout(settings.timeout);
        Ok(Self {
            settings,
            waits,
            repo,
            client: build(builder, settings, repo)?,
            endpoint: endpoint::parse(&settings.endpoint)?,
        })
    }

    /// A client that waits for answers as long as each request says.
    pub(crate) fn patient_client(&self) -> Result<Client, HubError> {
        build(client_builder(self.settings), self.settings, self.repo)
    }

    /// An address of the Hub: slashes in the parts do not separate.
    pub(crate) fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    /// The address of something that the Hub's API says about a revision of the repository.
    pub(crate) fn api(&self, what: &str, revision: &str) -> Url {
        let mut parts = vec!["api", self.repo.kind().plural()];
        parts.extend(self.repo.as_str().split('/'));
        parts.extend([what, revision]);
        self.url(&parts)
    }

    /// The address of a file.
    pub(crate) fn file_url(&self, commit: &str, file: &str) -> Url {
        let mut parts = match self.repo.kind() {
            RepoKind::Model => Vec::new(),
            kind @ RepoKind::Dataset => vec![kind.plural()],
        };
        parts.extend(self.repo.as_str().split('/'));
        parts.extend(["resolve", commit]);
        parts.extend(file.split('/'));
        self.url(&parts)
    }

    /// The token, if `url` is of the Hub and not of a store.
    pub(crate) fn token_for(&self, url: &Url) -> Option<&Token> {
        let is_hub = self.endpoint.origin() == url.origin();
        self.settings.token.as_ref().filter(|_| is_hub)
    }

    /// Waits as long as the Hub asks for, or else for `delay`. At once and false: it asks for too much.
    pub(crate) async fn pause(&self, asked_for: Option<Duration>, delay: Duration) -> bool {
        let may_wait = asked_for.is_none_or(|wait| {
            let notice = || Notice::Waiting {
                repo: self.repo.as_str().into(),
                endpoint: self.settings.endpoint.clone(),
                wait,
            };
            self.waits.begin(wait, &self.settings.limits, notice)
        });
        if may_wait {
            sleep(asked_for.unwrap_or(delay)).await;
        }
        may_wait
    }
}

/// A client without a limit to how long an answer takes.
pub(crate) fn client_builder(settings: &HubSettings) -> ClientBuilder {
    let agent = concat!("sae-run/", env!("CARGO_PKG_VERSION"), "; hf-hub/1.0.0");
    let builder = Client::builder().user_agent(agent);
    builder.connect_timeout(settings.connect_timeout)
}

fn build(
    builder: ClientBuilder,
    settings: &HubSettings,
    repo: &RepoId,
) -> Result<Client, HubError> {
    let failed = |error| HubError::network(repo.as_str(), &settings.endpoint, error);
    builder.build().map_err(failed)
}
