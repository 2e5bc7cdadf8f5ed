//! The store through which ranks find each other: c10d's own, over TCP.

use crate::DistError;
use crate::error::store_lost;
use crate::plugin::{Failure, FailureKind, PlugIn, RawStore, Side};
use crate::waiting::waiting;
use fault::Fault;
use plan::StoreAddress;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

/// How to serve the store at an address: if all ranks are on this machine, for this machine alone.
fn serve(address: &StoreAddress) -> Result<Side, DistError> {
    if !address.is_local() {
        return Ok(Side::Server);
    }
    let socket = TcpListener::bind((address.host.as_str(), address.port));
    let socket = socket.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => port_in_use(address),
        _ => no_store(0, address, &error.to_string()),
    })?;
    Ok(Side::ServerOn(socket))
}

fn port_in_use(address: &StoreAddress) -> Fault {
    let message = format!(
        "rank 0 cannot listen on port {}: it is in use",
        address.port
    );
    Fault::internal(message).with_hint("give MASTER_PORT a free port, on all ranks the same")
}

fn no_store(rank: usize, address: &StoreAddress, reason: &str) -> Fault {
    let message = format!("rank {rank} cannot reach the store at `{address}`: {reason}");
    Fault::internal(message).with_hint(
        "is MASTER_ADDR the host of rank 0, can it be reached from here, and is rank 0 running?",
    )
}

/// Who serves a store.
fn who(address: &StoreAddress) -> String {
    let server = if address.is_served_by_launcher {
        "the launcher"
    } else {
        "rank 0"
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
    /// A port that is in use, or no server within about twice the time.
    pub fn open(
        address: &StoreAddress,
        is_server: bool,
        prefix: &str,
        (rank, timeout): (usize, Duration),
    ) -> Result<Self, DistError> {
        let at = (address.host.as_str(), address.port);
        let plugin = PlugIn::gloo()?;
        let side = if is_server {
            serve(address)?
        } else {
            Side::Client
        };
        let raw = waiting(who(address), || {
            RawStore::open(plugin, at, side, timeout, prefix)
        });
        let raw = raw.map_err(|failure| match failure.kind {
            FailureKind::AddressInUse => port_in_use(address),
            _ => no_store(rank, address, &failure.text),
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

    /// The value of a key, once it is there; `None` if it is not within `timeout`.
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
        store_lost(
            &self.address,
            &format!("an exchange of `{key}`"),
            &failure.text,
        )
    }
}
