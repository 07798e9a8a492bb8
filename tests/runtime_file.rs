//! Keys in a file: what a restart keeps, what an epoch's end leaves, and which files are refused.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use ipveil::{
    KeyRing,
    keys::{Epochs, KeyEvent, KeyId, ManualClock, Notice, Origin, RuntimeFile, RuntimeFileError},
};
use tempfile::TempDir;

use self::{notices::notices, until::until};

mod notices;
mod until;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

/// A directory in memory, and a clock that stands at noon of some day.
struct Scene {
    directory: TempDir,
    clock: ManualClock,
    events: Arc<Mutex<Vec<KeyEvent>>>,
}

fn scene() -> Scene {
    Scene {
        directory: tempfile::tempdir_in("/dev/shm").unwrap(),
        clock: ManualClock::at(DAY * 20_000 + HOUR * 12),
        events: Arc::default(),
    }
}

impl Scene {
    fn path(&self) -> PathBuf {
        self.directory.path().join("keys")
    }

    /// As the next process would.
    fn start(&self) -> KeyRing {
        self.start_with(Epochs::daily())
    }

    fn start_with(&self, epochs: Epochs) -> KeyRing {
        let file = until("it is let go of", || match RuntimeFile::open(self.path()) {
            Err(RuntimeFileError::Locked) => None,
            other => Some(other.unwrap()),
        });
        let events = self.events.clone();
        KeyRing::builder(file, epochs)
            .clock(self.clock.clone())
            .on_event(move |event| events.lock().unwrap().push(event))
            .start()
            .unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap_or_default()
    }

    fn origin(&self, of: KeyId) -> Origin {
        self.events
            .lock()
            .unwrap()
            .iter()
            .rev()
            .find_map(|event| match event {
                KeyEvent::Minted { key, origin, .. } if *key == of => Some(*origin),
                _ => None,
            })
            .unwrap()
    }

    fn notices(&self) -> Vec<Notice> {
        notices(&self.events.lock().unwrap())
    }
}

/// The 32 bytes of the first key in a file.
fn first_key(bytes: &[u8]) -> [u8; 32] {
    bytes[48..80].try_into().unwrap()
}

fn holds(bytes: &[u8], key: &[u8]) -> bool {
    bytes.windows(key.len()).any(|window| window == key)
}

#[test]
fn a_restart_goes_on_with_the_same_key() {
    let scene = scene();
    let keys = scene.start();
    let key = keys.key_id().unwrap();
    assert_eq!(scene.origin(key), Origin::Minted);
    drop(keys);
    let keys = scene.start();
    assert_eq!(keys.key_id(), Some(key));
    assert_eq!(scene.origin(key), Origin::Restored);
}

#[test]
fn a_restart_just_before_the_boundary_keeps_the_next_key_too() {
    let scene = scene();
    let keys = scene.start();
    let key = keys.key_id().unwrap();
    scene.clock.advance(HOUR * 12 - Duration::from_secs(2));
    let prepared = || {
        let events = scene.events.lock().unwrap();
        events.iter().find_map(|event| match event {
            KeyEvent::Minted { key: next, .. } if *next != key => Some(*next),
            _ => None,
        })
    };
    let next = until("the next key", prepared);
    drop(keys);
    let keys = scene.start();
    assert_eq!(keys.key_id(), Some(key));
    until("it is restored", || (scene.origin(next) == Origin::Restored).then_some(()));
    scene.clock.advance(Duration::from_secs(2));
    until("it is used", || (keys.key_id() == Some(next)).then_some(()));
}

#[test]
fn at_the_end_of_the_epoch_the_key_is_overwritten_in_the_file() {
    let scene = scene();
    let keys = scene.start();
    let before = keys.key_id();
    let secret = first_key(&scene.bytes());
    scene.clock.advance(DAY);
    until("the next key", || (keys.key_id().is_some() && keys.key_id() != before).then_some(()));
    until("it is overwritten", || (!holds(&scene.bytes(), &secret)).then_some(()));
}

#[test]
fn a_file_whose_epoch_ended_while_nobody_was_there_is_wiped_and_not_used() {
    let scene = scene();
    let keys = scene.start();
    let key = keys.key_id().unwrap();
    let secret = first_key(&scene.bytes());
    drop(keys);
    scene.clock.advance(DAY);
    let keys = scene.start();
    assert_ne!(keys.key_id(), Some(key));
    assert!(!holds(&scene.bytes(), &secret));
    assert!(scene.notices().contains(&Notice::FileWiped("a key in it was over")));
    // Not even if somebody sets the clock back: it is gone.
    drop(keys);
    scene.clock.set_wall(DAY * 20_000 + HOUR * 13);
    assert_ne!(scene.start().key_id(), Some(key));
}

#[test]
fn setting_the_clock_back_between_restarts_does_not_keep_a_key_alive() {
    let scene = scene();
    let minute = Duration::from_secs(60);
    let begin = DAY * 20_000 + HOUR * 12 + minute;
    scene.clock.set_wall(begin);
    let keys = scene.start_with(Epochs::hourly());
    let key = keys.key_id().unwrap();
    let secret = first_key(&scene.bytes());
    drop(keys);
    scene.clock.advance(55 * minute);
    scene.clock.set_wall(begin);
    let keys = scene.start_with(Epochs::hourly());
    assert_eq!(keys.key_id(), Some(key), "four minutes are left");
    scene.clock.advance(3 * minute);
    assert_eq!(keys.key_id(), Some(key));
    scene.clock.advance(minute);
    assert_ne!(keys.key_id(), Some(key), "from the very moment");
    until("another key", || keys.key_id().filter(|other| *other != key));
    until("it is overwritten", || (!holds(&scene.bytes(), &secret)).then_some(()));
    drop(keys);
    // Nor is it the key of whoever comes later, however often.
    for _ in 0..4 {
        scene.clock.advance(55 * minute);
        scene.clock.set_wall(begin);
        assert_ne!(scene.start_with(Epochs::hourly()).key_id(), Some(key));
    }
}

#[test]
fn no_key_outlives_an_epoch_however_often_the_clock_is_set_back_and_the_program_restarted() {
    let scene = scene();
    let minute = Duration::from_secs(60);
    let begin = DAY * 20_000 + HOUR * 12 + minute;
    let mut seen: Vec<(KeyId, u32)> = Vec::new();
    for step in 0..24 {
        scene.clock.set_wall(begin);
        let keys = scene.start_with(Epochs::hourly());
        let key = until("a key", || keys.key_id());
        match seen.iter().find(|(seen, _)| *seen == key) {
            Some((_, first)) => assert!(10 * (step - first) < 60, "{} minutes", 10 * (step - first)),
            None => seen.push((key, step)),
        }
        drop(keys);
        scene.clock.advance(10 * minute);
    }
    assert_eq!(seen.len(), 4, "a restart goes on with a key that has some time left");
}

#[test]
fn rotate_takes_the_key_out_of_the_file_before_it_returns() {
    let scene = scene();
    let keys = scene.start();
    let (key, secret) = (keys.key_id().unwrap(), first_key(&scene.bytes()));
    let new = keys.rotate().unwrap();
    assert!(!holds(&scene.bytes(), &secret));
    drop(keys);
    let restarted = scene.start().key_id().unwrap();
    assert_eq!(restarted, new);
    assert_ne!(restarted, key);
}

#[test]
fn a_key_for_epochs_of_another_length_is_wiped() {
    let scene = scene();
    let key = scene.start().key_id().unwrap();
    let secret = first_key(&scene.bytes());
    let hourly = scene.start_with(Epochs::hourly());
    assert!(hourly.key_id().is_some() && !holds(&scene.bytes(), &secret));
    assert!(scene.notices().contains(&Notice::FileWiped("a key in it was for epochs of another length")));
    hourly.rotate().unwrap();
    drop(hourly);
    assert_ne!(scene.start().key_id(), Some(key));
}

#[test]
fn rotate_takes_keys_of_other_epochs_out_of_the_file_too() {
    let scene = scene();
    let key = scene.start().key_id().unwrap();
    let secret = first_key(&scene.bytes());
    // Yesterday, by a clock that was set back: both have a place in the file.
    scene.clock.set_wall(DAY * 19_999 + HOUR * 12);
    let keys = scene.start();
    assert!(keys.key_id() != Some(key) && holds(&scene.bytes(), &secret));
    keys.rotate().unwrap();
    assert!(!holds(&scene.bytes(), &secret));
    drop(keys);
    scene.clock.set_wall(DAY * 20_000 + HOUR * 12);
    assert_ne!(scene.start().key_id(), Some(key));
}

#[test]
fn a_key_of_another_boot_is_wiped() {
    let scene = scene();
    let keys = scene.start();
    let key = keys.key_id();
    drop(keys);
    let mut bytes = scene.bytes();
    bytes[24..32].fill(7);
    let check = *blake3::hash(&bytes[8..80]).as_bytes();
    bytes[80..88].copy_from_slice(&check[..8]);
    fs::write(scene.path(), &bytes).unwrap();
    let keys = scene.start();
    assert!(keys.key_id().is_some());
    assert_ne!(keys.key_id(), key);
    assert!(!holds(&scene.bytes(), &first_key(&bytes)));
}

#[test]
fn a_second_process_is_refused() {
    let scene = scene();
    let _keys = scene.start();
    let refused = RuntimeFile::open(scene.path()).unwrap_err();
    assert!(matches!(refused, RuntimeFileError::Locked), "{refused}");
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let scene = scene();
    drop(scene.start());
    for mode in [0o640, 0o604, 0o602, 0o666] {
        fs::set_permissions(scene.path(), fs::Permissions::from_mode(mode)).unwrap();
        let refused = until("it is let go of", || match RuntimeFile::open(scene.path()).unwrap_err() {
            RuntimeFileError::Locked => None,
            other => Some(other),
        });
        assert!(matches!(refused, RuntimeFileError::Mode), "{mode:o}: {refused}");
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let scene = scene();
    fs::write(scene.path(), "").unwrap();
    fs::set_permissions(scene.path(), fs::Permissions::from_mode(0o600)).unwrap();
    if chown(scene.path(), Some(12_345), None).is_err() {
        // Only root can give files away; then there is nothing to try.
        return;
    }
    let refused = RuntimeFile::open(scene.path()).unwrap_err();
    assert!(matches!(refused, RuntimeFileError::Owner), "{refused}");
}

#[test]
fn what_is_not_a_file_is_refused() {
    let scene = scene();
    fs::write(scene.directory.path().join("elsewhere"), "").unwrap();
    symlink(scene.directory.path().join("elsewhere"), scene.path()).unwrap();
    for path in [scene.path(), scene.directory.path().to_owned()] {
        let refused = RuntimeFile::open(&path).unwrap_err();
        assert!(matches!(refused, RuntimeFileError::NotAFile), "{refused}");
    }
}

#[test]
fn a_disk_is_refused_unless_it_is_allowed_by_name_and_then_it_is_said() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("keys");
    let refused = RuntimeFile::open(&path).unwrap_err();
    assert!(matches!(refused, RuntimeFileError::OnDisk), "{refused}");
    assert!(refused.to_string().contains("tmpfs"), "{refused}");
    assert!(!path.exists(), "nothing is left behind");

    let events: Arc<Mutex<Vec<KeyEvent>>> = Arc::default();
    let told = events.clone();
    let file = RuntimeFile::open_even_on_a_disk_that_remembers_keys(&path).unwrap();
    let keys = KeyRing::builder(file, Epochs::daily())
        .on_event(move |event| told.lock().unwrap().push(event))
        .start()
        .unwrap();
    assert!(keys.key_id().is_some());
    let on_disk = |event: &KeyEvent| matches!(event, KeyEvent::Noticed { notice: Notice::FileOnDisk, .. });
    assert!(events.lock().unwrap().iter().any(on_disk));
}

/// Runs tests of this file once more, where `/proc` holds processes and nothing else.
#[track_caller]
fn without_proc_sys(tests: &[&str]) {
    let script =
        "mount -t proc -o subset=pid proc /proc && test ! -e /proc/uptime && test ! -e /proc/sys && exec \"$@\"";
    let enter = |user: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(user).args(["--mount", "--pid", "--fork", "sh", "-c", script, "sh"]);
        command
    };
    // As root, or as one in a namespace of his own. Where the system allows neither there is nothing to try.
    let allowed = [&[][..], &["--user", "--map-root-user"]];
    let is_allowed = |user: &&&[&str]| enter(user).arg("true").output().is_ok_and(|output| output.status.success());
    let Some(user) = allowed.iter().find(is_allowed) else { return };
    let output = enter(user).arg(std::env::current_exe().unwrap()).arg("--exact").args(tests).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(&format!("{} passed", tests.len())), "{said}");
}

#[test]
fn without_proc_sys_a_key_in_memory_survives_a_restart_and_has_no_more_time() {
    without_proc_sys(&[
        "a_restart_goes_on_with_the_same_key",
        "setting_the_clock_back_between_restarts_does_not_keep_a_key_alive",
    ]);
}

#[test]
fn without_proc_sys_a_key_on_a_disk_is_wiped_at_a_restart_and_that_is_said() {
    without_proc_sys(&["a_key_on_a_disk_survives_a_restart_if_the_boot_is_known"]);
}

#[test]
fn a_key_on_a_disk_survives_a_restart_if_the_boot_is_known() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let clock = ManualClock::at(DAY * 20_000 + HOUR * 12);
    let events: Arc<Mutex<Vec<KeyEvent>>> = Arc::default();
    let start = || {
        let file = until("it is let go of", || {
            match RuntimeFile::open_even_on_a_disk_that_remembers_keys(directory.path().join("keys")) {
                Err(RuntimeFileError::Locked) => None,
                other => Some(other.unwrap()),
            }
        });
        let told = events.clone();
        let ring = KeyRing::builder(file, Epochs::daily()).clock(clock.clone());
        ring.on_event(move |event| told.lock().unwrap().push(event)).start().unwrap()
    };
    let is_known = Path::new("/proc/sys/kernel/random/boot_id").exists();
    let key = start().key_id().unwrap();
    assert_eq!(start().key_id() == Some(key), is_known);
    let about = |notice: &Notice| matches!(notice, Notice::FileWiped(why) if why.contains("without /proc/sys"));
    assert_eq!(notices(&events.lock().unwrap()).iter().filter(|notice| about(notice)).count(), usize::from(!is_known));
}

#[test]
fn a_damaged_file_is_wiped_and_never_used() {
    let scene = scene();
    let keys = scene.start();
    let key = keys.key_id().unwrap();
    drop(keys);
    let whole = until("it is written", || Some(scene.bytes()).filter(|bytes| !bytes.is_empty()));
    let secret = first_key(&whole);
    let mut cases: Vec<Vec<u8>> = (1..whole.len()).map(|length| whole[..length].to_vec()).collect();
    cases.push([&whole[..], &[0; 5_000]].concat());
    cases.push(vec![0xff; whole.len()]);
    cases.push(b"not a key file at all".to_vec());
    for place in 0..88 {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        cases.push(flipped);
    }
    for (place, case) in cases.iter().enumerate() {
        scene.events.lock().unwrap().clear();
        write(&scene.path(), case);
        let keys = scene.start();
        assert_ne!(keys.key_id(), Some(key), "case {place}");
        assert!(keys.key_id().is_some() && !keys.is_degraded(), "case {place}");
        assert!(!holds(&scene.bytes(), &secret), "case {place}");
        assert!(
            scene.notices().iter().any(|notice| matches!(notice, Notice::FileWiped(_))),
            "case {place}: {:?}",
            scene.notices()
        );
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
