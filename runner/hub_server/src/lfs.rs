//! The uploads of large files: git's LFS protocol, in one piece or in parts.

use super::State;
use super::http::{Received, Response};
use super::repo::{Content, sha256};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How large files are taken.
#[derive(Debug, Default)]
pub(super) struct Lfs {
    /// Length of the parts of files that are longer than that.
    pub(super) part_bytes: Option<u64>,
    /// Offers a way of sending that no one knows, and no other.
    pub(super) is_odd: bool,
    /// What arrived and was not verified, by its SHA-256.
    arrived: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<(String, u64), Vec<u8>>,
    objects: BTreeMap<String, Content>,
}

/// Tells how to send files.
pub(super) fn batch(state: &mut State, received: &Received, id: &str) -> Response {
    let asked = received.json();
    let offered = asked["transfers"].as_array().cloned().unwrap_or_default();
    let takes = |transfer: &str| offered.iter().any(|offered| offered == transfer);
    if state.lfs.is_odd {
        return Response::json(&json!({"transfer": "pigeon", "objects": []}));
    }
    let objects = asked["objects"].as_array().cloned().unwrap_or_default();
    if state.cas.is_some() && takes("xet") {
        let answer = json!({"transfer": "xet", "objects": objects});
        return Response::json(&answer);
    }
    let has_parts = state.lfs.part_bytes.is_some() && takes("multipart");
    let objects: Vec<_> = objects
        .iter()
        .map(|object| object_answer(state, object, id, has_parts))
        .collect();
    let transfer = if has_parts { "multipart" } else { "basic" };
    Response::json(&json!({"transfer": transfer, "objects": objects}))
}

fn object_answer(state: &mut State, object: &Value, id: &str, has_parts: bool) -> Value {
    let (oid, n_bytes) = (object["oid"].as_str(), object["size"].as_u64());
    let (Some(oid), Some(n_bytes)) = (oid, n_bytes) else {
        return json!({"oid": "", "size": 0, "error": {"code": 422, "message": "not an object"}});
    };
    if stored(state, oid).is_some() {
        return json!({"oid": oid, "size": n_bytes});
    }
    let signature = state.sign();
    let (hub, store) = (&state.hub_url, &state.store_url);
    let part_bytes = state
        .lfs
        .part_bytes
        .filter(|&part| has_parts && n_bytes > part);
    let upload = match part_bytes {
        None => json!({"href": format!("{store}/upload/{oid}?signature={signature}")}),
        Some(part_bytes) => {
            let mut header = json!({"chunk_size": part_bytes.to_string()});
            for part in 1..=n_bytes.div_ceil(part_bytes) {
                let url = format!("{store}/part/{part}/{oid}?signature={signature}");
                header[format!("{part:05}")] = json!(url);
            }
            let href = format!("{hub}/api/complete_multipart?signature={signature}");
            json!({"href": href, "header": header})
        }
    };
    let verify = format!("{hub}/{id}.git/info/lfs/objects/verify");
    json!({"oid": oid, "size": n_bytes, "authenticated": true,
           "actions": {"upload": upload, "verify": {"href": verify}}})
}

/// Takes what is put into the store.
pub(super) fn receive(state: &mut State, received: &Received) -> Response {
    if !state.is_signed(received) {
        return Response::error(403, None, "Request has expired");
    }
    if received.header("authorization").is_some() {
        return Response::error(400, None, "Only one auth mechanism allowed");
    }
    if received.header("content-length").is_none() {
        return Response::error(411, None, "You must provide the Content-Length HTTP header");
    }
    let parts: Vec<_> = received.path().split('/').skip(1).collect();
    let content = received.body.clone();
    let etag = format!("\"{}\"", sha256(&content));
    match parts[..] {
        ["upload", oid] if sha256(&content) == oid => {
            state.lfs.arrived.insert(oid.into(), content);
        }
        ["upload", _] => return Response::error(400, None, "BadDigest"),
        ["part", number, oid] => {
            let number = number.parse().unwrap_or(0);
            state.lfs.parts.insert((oid.into(), number), content);
        }
        _ => return Response::error(404, None, "no such path"),
    }
    Response::new(200, "").with("ETag", etag)
}

/// Makes a file of its parts.
pub(super) fn complete(state: &mut State, received: &Received) -> Response {
    if !state.is_signed(received) {
        return Response::error(403, None, "Request has expired");
    }
    let asked = received.json();
    let oid = asked["oid"].as_str().unwrap_or_default();
    let mut content = Vec::new();
    for (index, part) in asked["parts"].as_array().into_iter().flatten().enumerate() {
        let number = index as u64 + 1;
        let bytes = state.lfs.parts.get(&(oid.to_owned(), number));
        let is_right = |bytes: &&Vec<u8>| {
            part["partNumber"] == number && part["etag"] == format!("\"{}\"", sha256(bytes))
        };
        match bytes.filter(is_right) {
            Some(bytes) => content.extend_from_slice(bytes),
            None => return Response::error(400, None, "InvalidPart"),
        }
    }
    if sha256(&content) != oid {
        return Response::error(400, None, "BadDigest");
    }
    state.lfs.parts.retain(|(of, _), _| of != oid);
    state.lfs.arrived.insert(oid.into(), content);
    Response::json(&json!({}))
}

/// Takes a file for good.
pub(super) fn verify(state: &mut State, received: &Received) -> Response {
    let asked = received.json();
    let oid = asked["oid"].as_str().unwrap_or_default();
    let n_bytes = asked["size"].as_u64();
    let arrived = state.lfs.arrived.remove(oid);
    match arrived.filter(|bytes| n_bytes == Some(bytes.len() as u64)) {
        Some(bytes) => {
            let content = Content {
                bytes: Arc::new(bytes),
                xet_hash: None,
            };
            state.lfs.objects.insert(oid.into(), content);
            Response::json(&json!({}))
        }
        None if stored(state, oid).is_some() => Response::json(&json!({})),
        None => Response::error(422, None, "the file did not arrive"),
    }
}

/// A file that arrived in whatever way.
pub(super) fn stored(state: &mut State, oid: &str) -> Option<Content> {
    let object = state.lfs.objects.get(oid).cloned();
    object.or_else(|| state.cas.as_mut()?.content(oid))
}
