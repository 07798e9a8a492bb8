//! Which files the proxy has read, and whether they are others now.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::config::Config;

/// What of a file changes when it does: symbolic links followed, since that is how some are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    number: u64,
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(file).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len(), number: metadata.ino() })
    }
}

/// Files as they were when they were read last: the configuration, and what it names, also if it was refused.
pub(super) struct Seen(Vec<(PathBuf, Option<Stamp>)>);

impl Seen {
    pub(super) fn of(path: Option<&Path>, config: &Config) -> Self {
        let path = path.map(|path| (path.to_owned(), Stamp::of(path)));
        let mut seen = Self(path.into_iter().collect());
        seen.name(config);
        seen
    }

    /// Looks at the files that a configuration names, and at no others but its own.
    pub(super) fn name(&mut self, config: &Config) {
        self.0.truncate(1);
        self.0.extend(config.files().into_iter().map(|file| (file.clone(), Stamp::of(&file))));
    }

    pub(super) fn look(&mut self) {
        self.0.iter_mut().for_each(|(file, stamp)| *stamp = Stamp::of(file));
    }

    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }
}
