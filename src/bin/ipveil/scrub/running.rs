//! Lets a running proxy scrub, with its own keys.

use std::path::Path;

/// The text as its log would show it.
#[cfg(feature = "proxy")]
pub(super) fn scrub(socket: &Path, text: &[u8]) -> anyhow::Result<Vec<u8>> {
    crate::admin::send(socket, "POST", "/scrub", bytes::Bytes::copy_from_slice(text))
}

/// There is no proxy without the feature.
#[cfg(not(feature = "proxy"))]
pub(super) fn scrub(_: &Path, _: &[u8]) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("this program was built without the proxy")
}
