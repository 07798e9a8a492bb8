//! Keys that are made in this process and never leave it.

use super::{EpochKey, KeyError, KeyRequest, KeySource};

/// Fresh random bytes from the operating system for each epoch: a restart is a new key.
///
/// The safest source, and enough for one process. Pseudonyms differ between processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemorySource;

impl KeySource for MemorySource {
    fn key(&mut self, _: KeyRequest) -> Result<EpochKey, KeyError> {
        EpochKey::random()
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
