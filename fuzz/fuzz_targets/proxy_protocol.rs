//! Any bytes as a PROXY header: nothing panics, what is wrong stays wrong, and what is complete was incomplete before.
#![no_main]

use ipveil::{
    Peer, TrustedProxies,
    proxy_protocol::{Progress, Receiver, begins},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let receiver = Receiver::new(TrustedProxies::none().and_unix_sockets());
    let read = |length: usize| receiver.read(Peer::unix(), &bytes[..length]);

    let mut before = Ok(Progress::Incomplete(1));
    for length in 0..=bytes.len().min(5000) {
        let now = read(length);
        match (&before, &now) {
            (Err(error), now) => assert_eq!(now.as_ref().err(), Some(error), "at {length}"),
            (Ok(Progress::Complete(header)), now) => {
                let Ok(Progress::Complete(again)) = now else { panic!("at {length}: not complete any more") };
                assert_eq!(header.length(), again.length());
            }
            (Ok(Progress::Incomplete(more)), Ok(Progress::Incomplete(now))) => {
                assert!(*now > 0);
                assert!(length == 0 || *now + 1 >= *more, "at {length}: {more} were missing");
            }
            (Ok(Progress::Incomplete(more)), Ok(Progress::Complete(header))) => {
                assert_eq!((header.length(), *more), (length, 1));
                assert_eq!(begins(bytes), Some(true));
            }
            (Ok(Progress::Incomplete(_)), Err(_)) => {}
        }
        before = now;
    }
});
