//! The store through which ranks find each other: c10d's own, over TCP.

use crate::DistError;
use crate::plugin::{Failure, FailureKind, PlugIn, RawStore, Side};
use crate::waiting::waiting;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAddress {
    /// Host of rank 0, or of the launcher.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher serves it, as torchrun does; else rank 0.
    pub is_served_by_launcher: bool,
}

impl StoreAddress {
    /// Whether all ranks must be on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.host == "localhost" || self.host == "::1" || self.host.starts_with("127.")
    }

    /// How to serve it: where all ranks are on this machine, for this machine alone.
    fn serve(&self) -> Result<Side, DistError> {
        if !self.is_local() {
            return Ok(Side::Server);
        }
        let socket = TcpListener::bind((self.host.as_str(), self.port));
        let socket = socket.map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => DistError::PortInUse { port: self.port },
            _ => DistError::NoStore {
                rank: 0,
                address: self.to_string(),
                reason: error.to_string(),
            },
        })?;
        Ok(Side::ServerOn(socket))
    }
}

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who serves a store.
fn who(address: &StoreAddress) -> String {
    let server = match address.is_served_by_launcher {
        true => "the launcher",
        false => "rank 0",
    };
    format!("{server} at {address}")
}

/// A key-value store that all ranks share. It can be used from several threads.
#[derive(Debug)]
pub struct Store {
    raw: RawStore,
    address: StoreAddress,
}

impl Store {
    /// Connects to the store at `address`; `is_server`: serves it, for the life of what is returned. Keys
    /// begin with `prefix`, so that worlds one after the other do not see each other's.
    ///
    /// # Errors
    /// A port that is in use, or nobody who serves within about twice the time.
    pub fn open(
        address: &StoreAddress,
        is_server: bool,
        prefix: &str,
        (rank, timeout): (usize, Duration),
    ) -> Result<Self, DistError> {
        let at = (address.host.as_str(), address.port);
        let plugin = PlugIn::gloo()?;
        let side = match is_server {
            true => address.serve()?,
            false => Side::Client,
        };
        let raw = waiting(who(address), || {
            RawStore::open(plugin, at, side, timeout, prefix)
        });
        let raw = raw.map_err(|failure| match failure.kind {
            FailureKind::AddressInUse => DistError::PortInUse { port: address.port },
            _ => DistError::NoStore {
                rank,
                address: address.to_string(),
                reason: failure.text,
            },
        })?;
        Ok(Self {
            raw,
            address: address.clone(),
        })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The store is lost.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), DistError> {
        self.raw
            .set(key, value)
            .map_err(|failure| self.lost(key, failure))
    }

    /// The value of a key, once it is there; `None` where it is not within `timeout`.
    ///
    /// # Errors
    /// The store is lost.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Option<Vec<u8>>, DistError> {
        self.get_of(who(&self.address), key, timeout)
    }

    /// As [`Store::get`]. `whom`: who sets the key, for the user.
    pub(crate) fn get_of(
        &self,
        whom: String,
        key: &str,
        timeout: Duration,
    ) -> Result<Option<Vec<u8>>, DistError> {
        match waiting(whom, || self.raw.get(key, timeout)) {
            Ok(value) => Ok(Some(value)),
            Err(failure) if failure.kind == FailureKind::Timeout => Ok(None),
            Err(failure) => Err(self.lost(key, failure)),
        }
    }

    /// Whether a key is there now.
    ///
    /// # Errors
    /// The store is lost.
    pub fn has(&self, key: &str) -> Result<bool, DistError> {
        self.raw.has(key).map_err(|failure| self.lost(key, failure))
    }

    pub(crate) fn raw(&self) -> &RawStore {
        &self.raw
    }

    pub(crate) fn address(&self) -> &StoreAddress {
        &self.address
    }

    fn lost(&self, key: &str, failure: Failure) -> DistError {
        DistError::StoreLost {
            address: self.address.to_string(),
            during: format!("an exchange of `{key}`"),
            reason: failure.text,
        }
    }
}
