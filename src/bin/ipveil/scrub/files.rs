//! What is read, and how a file takes the place of another.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::NamedTempFile;

/// One text.
pub(crate) enum Input {
    Standard,
    File(PathBuf),
}

impl Input {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Standard => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Standard => Path::new("-"),
            Self::File(path) => path,
        }
    }

    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Standard => Ok(Box::new(io::stdin())),
            Self::File(path) => Ok(Box::new(File::open(path).with_context(|| self.name())?)),
        }
    }

    /// Where it is written to: the output itself, or a file of the same name in it.
    pub(crate) fn target_in(&self, output: &Path) -> PathBuf {
        match self.path().file_name() {
            Some(name) if output.is_dir() => output.join(name),
            _ => output.to_owned(),
        }
    }

    /// What tells it from other files, if it is one: its device and number there.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Self::Standard => identity_of(io::stdin()),
            Self::File(path) => identity_at(path),
        }
    }

    /// In bytes, if that is known beforehand.
    pub(crate) fn size_of_text(&self) -> Option<u64> {
        let Self::File(path) = self else {
            return None;
        };
        let is_compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
        let size = fs::metadata(path).ok()?.len();
        (!is_compressed).then_some(size)
    }
}

/// What the paths name.
#[derive(Default)]
pub(crate) struct Inputs {
    pub(crate) read: Vec<Input>,
    /// What stands in a directory and is not read: links lead out of it, and pipes have no end.
    pub(crate) skipped: Vec<PathBuf>,
}

impl Inputs {
    /// Leaves out of what was skipped the links to what is read under another name.
    fn without_read_ones(mut self) -> Self {
        let target = |path: &Path| fs::canonicalize(path).ok();
        let read: HashSet<_> = match self.skipped.is_empty() {
            true => HashSet::new(),
            false => self.read.iter().filter_map(|input| target(input.path())).collect(),
        };
        self.skipped.retain(|path| target(path).is_none_or(|target| !read.contains(&target)));
        self
    }
}

/// The files that the paths name, each once; standard input if there are none.
pub(crate) fn inputs(paths: &[PathBuf]) -> Result<Inputs> {
    let mut inputs = Inputs::default();
    if paths.is_empty() {
        inputs.read.push(Input::Standard);
    }
    for path in paths {
        if path.as_os_str() == "-" {
            inputs.read.push(Input::Standard);
        } else if path.is_dir() {
            add_directory(path, &mut inputs)?;
        } else if !path.exists() && path.to_str().is_some_and(|text| text.contains(['*', '?', '['])) {
            add_pattern(path, &mut inputs)?;
        } else {
            inputs.read.push(Input::File(path.clone()));
        }
    }
    Ok(inputs.without_read_ones())
}

fn add_directory(directory: &Path, inputs: &mut Inputs) -> Result<()> {
    let name = || directory.display().to_string();
    let mut entries =
        fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>()).with_context(name)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().with_context(name)?;
        if kind.is_dir() {
            add_directory(&entry.path(), inputs)?;
        } else if kind.is_file() {
            inputs.read.push(Input::File(entry.path()));
        } else {
            inputs.skipped.push(entry.path());
        }
    }
    Ok(())
}

fn add_pattern(path: &Path, inputs: &mut Inputs) -> Result<()> {
    let pattern = path.to_str().unwrap_or_default();
    let before = (inputs.read.len(), inputs.skipped.len());
    for found in glob::glob(pattern).with_context(|| format!("{pattern}: not a pattern"))? {
        let found = found.with_context(|| pattern.to_owned())?;
        match fs::metadata(&found) {
            Ok(metadata) if metadata.is_dir() => add_directory(&found, inputs)?,
            // Nobody means a pipe by that, and to open one takes until somebody else does.
            Ok(metadata) if !metadata.is_file() => inputs.skipped.push(found),
            _ => inputs.read.push(Input::File(found)),
        }
    }
    if (inputs.read.len(), inputs.skipped.len()) == before {
        bail!("{pattern}: no file has such a name");
    }
    Ok(())
}

/// Opened to be written to at its end, as logs are; a new one is not for all to read.
pub(crate) fn append_to(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path).with_context(|| path.display().to_string())
}

/// The same of standard output.
pub(crate) fn identity_of_output() -> Option<(u64, u64)> {
    identity_of(io::stdout())
}

/// The same of what a path leads to, if there is anything.
pub(crate) fn identity_at(path: &Path) -> Option<(u64, u64)> {
    identity(&fs::metadata(path).ok()?)
}

#[cfg(unix)]
fn identity_of(stream: impl std::os::fd::AsFd) -> Option<(u64, u64)> {
    let file = File::from(stream.as_fd().try_clone_to_owned().ok()?);
    identity(&file.metadata().ok()?)
}

#[cfg(not(unix))]
fn identity_of<T>(_: T) -> Option<(u64, u64)> {
    None
}

/// Only of regular files: a terminal or a socket is read and written to at once, and that is well.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;

    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

/// What is no file, such as a pipe or `/dev/null`: nothing takes its place, it is written to.
pub(crate) fn special(path: &Path) -> Result<Option<File>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let file = OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())?;
            Ok(Some(file))
        }
        _ => Ok(None),
    }
}

/// A file under another name, until it is whole and takes its place at once. Until then, and if anything fails, what was there
/// stays as it is.
pub(crate) struct Replacement {
    path: PathBuf,
    file: NamedTempFile,
    // What it was when it was opened, if it is to be gone afterwards.
    original: Option<Metadata>,
}

impl Replacement {
    /// Of a file that is read meanwhile.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let (path, original) = followed(path)?;
        if !original.is_file() {
            bail!("{}: is not a file", path.display());
        }
        if has_other_names(&original) {
            bail!("{}: has other names (hard links), under which the addresses would stay", path.display());
        }
        let mut new = Self::like(&original, path)?;
        new.original = Some(original);
        Ok(new)
    }

    /// At a path where there may be nothing yet.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::beside(path.to_owned()),
            _ => {
                let (path, old) = followed(path)?;
                Self::like(&old, path)
            }
        }
    }

    /// With the mode and owner of what is there.
    fn like(old: &Metadata, path: PathBuf) -> Result<Self> {
        let new = Self::beside(path)?;
        let file = new.file.as_file();
        keep_owner(file, old).with_context(|| format!("{}: its owner can't be kept", new.name()))?;
        file.set_permissions(old.permissions()).with_context(|| new.name())?;
        Ok(new)
    }

    fn beside(path: PathBuf) -> Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut unfinished = unfinished();
        let file = tempfile::Builder::new()
            .prefix(".ipveil-")
            .tempfile_in(directory)
            .with_context(|| format!("{}: can't be written beside", path.display()))?;
        *unfinished = Some(file.path().to_owned());
        Ok(Self { path, file, original: None })
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn file(&mut self) -> &mut NamedTempFile {
        &mut self.file
    }

    /// It is whole.
    pub(crate) fn put_in_place(self) -> Result<()> {
        let Self { path, file, original } = self;
        let name = || path.display().to_string();
        file.as_file().sync_all().with_context(name)?;
        if let Some(original) = original {
            let now = fs::metadata(&path).with_context(name)?;
            if has_changed(&original, &now) {
                bail!("{}: was written to meanwhile, and stays as it is (rotate logs first, then scrub them)", name());
            }
        } else if !path.exists() {
            make_readable(file.as_file()).with_context(name)?;
        }
        file.persist(&path).map_err(|error| anyhow!(error.error)).with_context(name)?;
        if let Some(Ok(directory)) = path.parent().map(File::open) {
            // Some file systems can't; the name is there all the same.
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// The last file under another name. If it is there still, whoever ends the program at once has to remove it; none is made for
/// as long as this is held.
pub(crate) fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file that a link leads to is replaced, not the link.
fn followed(path: &Path) -> Result<(PathBuf, Metadata)> {
    let follow = || {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        Ok::<_, io::Error>((path, metadata))
    };
    follow().with_context(|| path.display().to_string())
}

#[cfg(unix)]
fn has_other_names(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &Metadata) -> bool {
    false
}

#[cfg(unix)]
fn keep_owner(file: &File, original: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};

    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (original.uid(), original.gid()) {
        return Ok(());
    }
    fchown(file, Some(original.uid()), Some(original.gid()))
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Temporary files are for their owner alone; a new file is what other programs make: readable to its group.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    file.set_permissions(fs::Permissions::from_mode(0o640))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
    Ok(())
}

fn has_changed(before: &Metadata, now: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        if before.ino() != now.ino() {
            return true;
        }
    }
    before.len() != now.len() || before.modified().ok() != now.modified().ok()
}
