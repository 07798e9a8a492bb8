//! What the nodes of a fleet know each other by.

use std::{fmt, fs, io, io::Read as _, path::Path};

use zeroize::Zeroizing;

use super::super::{
    KeyError, Secret,
    secret::{on_wiped_stack, random},
};

/// The fleet secret: who knows it is a node of the fleet.
///
/// 32 bytes, made by a machine: [`generate`](Self::generate), or `ipveil keys new-secret`. It says who may get a key; no key
/// can be computed from it. Whoever steals it can join from then on, if they can reach the store, until it is
/// replaced; what came before stays closed.
///
/// # Replacing it
///
/// A file may have two lines: the node signs with the first, and accepts both. So, without a gap and without a restart: add
/// the new one as the second line on all nodes; when all have it, swap the lines on all; when all have done so, remove the
/// old line on all. A node that runs is given the file's new content by [`SecretHandle::replace`](super::SecretHandle::replace)
/// (`ipveil proxy` does so when the file changes, or on SIGHUP) and keeps its key; one that restarts has it too. Each says when
/// it does, a quarter of a second later as a rule, in a [`Notice::SecretReplaced`](super::super::Notice::SecretReplaced).
///
/// What is in the store for the running epoch and the next is signed anew by nodes when they begin to sign with another secret
/// (claims by those that have the key, generations by all that are in them), so no step has to wait for an epoch's end. Who
/// replaces a secret because it was stolen ends with [`Console::rotate_now`](super::Console::rotate_now).
pub struct FleetSecret {
    // What signs comes first.
    accepted: Vec<Keys>,
}

/// What is derived from one secret. The secret itself is not kept.
pub(super) struct Keys {
    pub(super) id: u64,
    pub(super) mac: Secret,
    pub(super) seal: Secret,
}

impl FleetSecret {
    /// A new one, as the line of text to be put into a file. It is the only place where the secret can be seen.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] if the system has no randomness to give.
    pub fn generate() -> Result<Zeroizing<String>, KeyError> {
        on_wiped_stack::<STACK, _>(|| {
            let bytes = random()?;
            let mut line = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * (32 + CHECK)));
            line.push_str(PREFIX);
            for byte in bytes.iter().chain(&check(&bytes)) {
                for digit in [byte >> 4, byte & 15] {
                    line.push(char::from_digit(digit.into(), 16).expect("4 bits are a hexadecimal digit"));
                }
            }
            Ok(line)
        })
    }

    /// From a file, such as a systemd credential, that others can't read, and that nobody but its owner can write. It may also
    /// be a pipe, such as the shell's `<(command)`: then this waits until somebody writes into it.
    ///
    /// # Errors
    ///
    /// A [`FleetSecretError`], which never quotes what is in there.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FleetSecretError> {
        Self::read_open(fs::File::open(path)?)
    }

    /// Like [`read`](Self::read), for a program that must not wait: what is no regular file, such as a pipe into which nobody
    /// writes, is refused.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and [`FleetSecretError::NotAFile`].
    pub fn read_at_once(path: impl AsRef<Path>) -> Result<Self, FleetSecretError> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        // To open a pipe is to wait already.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(FleetSecretError::NotAFile);
        }
        Self::read_open(file)
    }

    fn read_open(mut file: fs::File) -> Result<Self, FleetSecretError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            // A group may read it: who can write it chooses who is a node.
            if file.metadata()?.mode() & 0o037 != 0 {
                return Err(FleetSecretError::Mode);
            }
        }
        // Never grown, so that no half of it stays behind in memory that was given back.
        let mut text = Zeroizing::new([0; LONGEST_FILE + 1]);
        let mut length = 0;
        while length < text.len() {
            match file.read(&mut text[length..])? {
                0 => break,
                read => length += read,
            }
        }
        if length > LONGEST_FILE {
            return Err(FleetSecretError::Text);
        }
        Self::parse(&text[..length])
    }

    /// From the text of such a file.
    ///
    /// # Errors
    ///
    /// A [`FleetSecretError`], which never quotes the text.
    pub fn parse(text: &[u8]) -> Result<Self, FleetSecretError> {
        let mut accepted = Vec::new();
        for line in text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
            accepted.push(on_wiped_stack::<STACK, _>(|| {
                let mut bytes = Zeroizing::new([0; 32]);
                decode(line, &mut bytes).ok_or(FleetSecretError::Text)?;
                Keys::derive(&bytes).map_err(FleetSecretError::from)
            })?);
        }
        match accepted.len() {
            1 | 2 => Ok(Self { accepted }),
            _ => Err(FleetSecretError::Text),
        }
    }

    /// The public name of the secret that signs: what notices and statuses call it by.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.first().id
    }

    /// Whether both sign with one secret, and accept the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.accepted.iter().map(|keys| keys.id).eq(other.accepted.iter().map(|keys| keys.id))
    }

    pub(super) fn first(&self) -> &Keys {
        self.accepted.first().expect("parse takes no file without a secret")
    }

    pub(super) fn with_id(&self, id: u64) -> Option<&Keys> {
        self.accepted.iter().find(|keys| keys.id == id)
    }
}

impl Keys {
    fn derive(secret: &[u8; 32]) -> Result<Self, KeyError> {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, secret));
        let id = derive("ipveil fleet secret v1 public id");
        Ok(Self {
            id: u64::from_be_bytes(*id.first_chunk().expect("32 bytes hold 8")),
            mac: Secret::take(&mut derive("ipveil fleet secret v1 records"))?,
            seal: Secret::take(&mut derive("ipveil fleet secret v1 sealed keys"))?,
        })
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetSecret").finish_non_exhaustive()
    }
}

/// Why there is no fleet secret. For whoever wrote the file; it is never quoted.
#[derive(Debug)]
#[non_exhaustive]
pub enum FleetSecretError {
    /// It is not what `ipveil keys new-secret` prints, or not one or two lines of it.
    Text,
    /// Everybody may read it, or a group write it.
    Mode,
    /// It is something other than a file, such as a pipe or a directory.
    NotAFile,
    /// There is no memory to keep it in.
    Key(KeyError),
    /// The system said no.
    Io(io::Error),
}

impl fmt::Display for FleetSecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "the fleet secret is not usable (expected one or two lines made by `ipveil keys new-secret`)",
            Self::Mode => "others may read or write the fleet secret (expected mode 0600 or 0640)",
            Self::NotAFile => "the fleet secret is not a file",
            Self::Key(error) => return error.fmt(f),
            Self::Io(_) => "the fleet secret can't be read",
        })
    }
}

impl std::error::Error for FleetSecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Key(error) => error.source(),
            Self::Io(error) => Some(error),
            Self::Text | Self::Mode | Self::NotAFile => None,
        }
    }
}

impl From<io::Error> for FleetSecretError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<KeyError> for FleetSecretError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

fn decode(line: &[u8], secret: &mut [u8; 32]) -> Option<()> {
    let digits = line.strip_prefix(PREFIX.as_bytes()).filter(|digits| digits.len() == 2 * (32 + CHECK))?;
    let (pairs, _) = digits.as_chunks::<2>();
    let mut bytes = Zeroizing::new([0; 32 + CHECK]);
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    secret.copy_from_slice(&bytes[..32]);
    // So that a typing error, or a passphrase, is not taken for a secret that nobody else has.
    (bytes[32..] == check(secret)).then_some(())
}

#[inline(never)]
fn check(secret: &[u8; 32]) -> [u8; CHECK] {
    let hash = blake3::derive_key("ipveil fleet secret v1 check", secret);
    *hash.first_chunk().expect("32 bytes hold 4")
}

const PREFIX: &str = "ipveil-fleet-1-";
const CHECK: usize = 4;
const LONGEST_FILE: usize = 1024;
const STACK: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_can_be_read() {
        let (one, two) = (FleetSecret::generate().unwrap(), FleetSecret::generate().unwrap());
        let both = FleetSecret::parse(format!("{}\n\n  {}\r\n", &*one, &*two).as_bytes()).unwrap();
        let (first, second) =
            (FleetSecret::parse(one.as_bytes()).unwrap(), FleetSecret::parse(two.as_bytes()).unwrap());
        assert_eq!(both.id(), first.id());
        assert!(both.with_id(second.id()).is_some() && first.with_id(second.id()).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_or_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), FleetSecret::generate().unwrap().as_bytes()).unwrap();
        let good = [0o400, 0o600, 0o440, 0o640].map(|mode| (mode, true));
        let bad = [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o610].map(|mode| (mode, false));
        for (mode, is_fine) in good.into_iter().chain(bad) {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let read = FleetSecret::read(file.path());
            assert_eq!(read.is_ok(), is_fine, "{mode:o}");
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file.path(), "x".repeat(100_000)).unwrap();
        assert!(matches!(FleetSecret::read(file.path()), Err(FleetSecretError::Text)));
    }

    #[cfg(unix)]
    #[test]
    fn who_must_not_wait_is_not_given_a_pipe() {
        use std::{os::unix::fs::PermissionsExt as _, process::Command, thread};

        let directory = tempfile::tempdir().unwrap();
        let (pipe, file) = (directory.path().join("pipe"), directory.path().join("file"));
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
        let made = FleetSecret::generate().unwrap();
        fs::write(&file, made.as_bytes()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let id = FleetSecret::parse(made.as_bytes()).unwrap().id();
        for path in [&file, &link] {
            assert_eq!(FleetSecret::read_at_once(path).unwrap().id(), id);
        }
        for path in [&pipe, directory.path()] {
            let refused = FleetSecret::read_at_once(path).unwrap_err();
            assert!(matches!(refused, FleetSecretError::NotAFile), "{refused}");
        }
        // Who may wait is.
        let writer = thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, made.as_bytes())
        });
        assert_eq!(FleetSecret::read(&pipe).unwrap().id(), id);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn what_was_typed_is_refused_and_never_quoted() {
        let made = FleetSecret::generate().unwrap();
        let mut cases = vec![String::new(), "correct horse battery staple".to_owned(), "0".repeat(64)];
        cases.push(made[..made.len() - 1].to_owned());
        cases.push(format!("{PREFIX}{}", "0".repeat(72)));
        let last = if made.ends_with('0') { '1' } else { '0' };
        cases.push(format!("{}{last}", &made[..made.len() - 1]));
        cases.push(format!("{0}\n{0}\n{0}\n", &*made));
        for case in cases {
            let error = FleetSecret::parse(case.as_bytes()).unwrap_err();
            assert!(matches!(error, FleetSecretError::Text));
            assert!(!format!("{error} {error:?}").contains("horse"));
        }
    }
}
