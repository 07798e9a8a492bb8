//! A key on its way, and how much longer it may live: sealed by a node that has it, to be opened by one that wants it, and by nobody later.

use std::time::Duration;

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _,
    aead::{Aead as _, Payload},
};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

use super::{
    super::{
        EpochKey, KeyError, Origin, Secret,
        secret::{on_wiped_stack, random},
    },
    record::Place,
    secrets::{FleetSecret, Keys},
};

/// A node's pair for one key. Its private half is gone when this is dropped, and with it whatever was sealed for it.
pub(super) struct Pair {
    private: Secret,
    pub(super) public: [u8; 32],
}

/// What a sealed key is bound to: it opens in no other place, for no other member, and as no other key.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) place: Place<'a>,
    pub(super) member: u64,
    pub(super) commitment: &'a [u8; 32],
}

impl Pair {
    pub(super) fn random() -> Result<Self, KeyError> {
        on_wiped_stack::<STACK, _>(|| {
            let mut private = random()?;
            let public = x25519(*private, X25519_BASEPOINT_BYTES);
            Ok(Self { private: Secret::take(&mut private)?, public })
        })
    }

    /// The key in `sealed`, if it is for this pair and is the one that its address says; and how much longer it may live,
    /// counted from when it was sealed.
    pub(super) fn open(
        &self,
        sealed: &[u8],
        secret: &FleetSecret,
        address: Address<'_>,
    ) -> Option<(EpochKey, Duration)> {
        on_wiped_stack::<STACK, _>(|| {
            let (id, sealed) = sealed.split_first_chunk()?;
            let keys = secret.with_id(u64::from_be_bytes(*id))?;
            let (theirs, text) = sealed.split_first_chunk::<32>()?;
            let shared = Zeroizing::new(x25519(*self.private.expose()?, *theirs));
            let once = Once { shared: &shared, sender: theirs, recipient: &self.public };
            let (cipher, bound) = once.cipher(keys, address)?;
            let opened = Zeroizing::new(cipher.decrypt(&NONCE.into(), Payload { msg: text, aad: &bound }).ok()?);
            let (key, left) = opened.split_first_chunk::<32>()?;
            let left = Duration::from_millis(u64::from_be_bytes(left.try_into().ok()?));
            let mut bytes = Zeroizing::new(*key);
            let key = EpochKey::take(&mut bytes).ok()?.from_origin(Origin::Adopted);
            (commitment(&key, address.place)? == *address.commitment).then_some((key, left))
        })
    }
}

/// `key`, which may live so much longer, for the member whose public half is `recipient`.
///
/// | bytes | what |
/// |---|---|
/// | 8 | the public name of the fleet secret |
/// | 32 | the public half of a pair that is used once |
/// | 32 + 8 + 16 | encrypted: the key, and the milliseconds that it may live still; what proves both |
pub(super) fn seal(
    key: &EpochKey,
    left: Duration,
    recipient: &[u8; 32],
    secret: &FleetSecret,
    address: Address<'_>,
) -> Option<Vec<u8>> {
    on_wiped_stack::<STACK, _>(|| {
        let keys = secret.first();
        let private = random().ok()?;
        let public = x25519(*private, X25519_BASEPOINT_BYTES);
        let shared = Zeroizing::new(x25519(*private, *recipient));
        let once = Once { shared: &shared, sender: &public, recipient };
        let (cipher, bound) = once.cipher(keys, address)?;
        // Encrypted in a copy that is then wiped: the cipher's own buffer begins with the key in clear.
        let mut buffer = Vec::with_capacity(64);
        buffer.extend_from_slice(key.secret.expose()?);
        buffer.extend_from_slice(&u64::try_from(left.as_millis()).ok()?.to_be_bytes());
        let mut buffer = Zeroizing::new(buffer);
        chacha20poly1305::aead::AeadInOut::encrypt_in_place(&cipher, &NONCE.into(), &bound, &mut *buffer).ok()?;
        Some([&keys.id.to_be_bytes()[..], &public, &buffer].concat())
    })
}

/// By what a key is known before it is opened. It can't be computed from there.
pub(super) fn commitment(key: &EpochKey, place: Place<'_>) -> Option<[u8; 32]> {
    // No pseudonym's input begins like this.
    key.hash(&[b"ipveil key commitment", &place.framed(b"commit..")[..]].concat())
}

/// What two ends have in common once: the ephemeral half is never used again.
struct Once<'a> {
    shared: &'a [u8; 32],
    sender: &'a [u8; 32],
    recipient: &'a [u8; 32],
}

impl Once<'_> {
    fn cipher(&self, keys: &Keys, address: Address<'_>) -> Option<(ChaCha20Poly1305, Vec<u8>)> {
        // A public half that makes the same secret with everybody's private half.
        if self.shared.iter().fold(0, |all, byte| all | byte) == 0 {
            return None;
        }
        let mut bound = address.place.framed(b"sealed..");
        bound.extend_from_slice(&address.member.to_be_bytes());
        bound.extend_from_slice(address.commitment);
        bound.extend_from_slice(self.sender);
        bound.extend_from_slice(self.recipient);
        let mut input = Zeroizing::new(Vec::with_capacity(512));
        input.extend_from_slice(self.shared);
        input.extend_from_slice(&bound);
        let key = Zeroizing::new(keys.seal.hash(&input)?);
        Some((ChaCha20Poly1305::new((&*key).into()), bound))
    }
}

// Each cipher's key is used for one message.
const NONCE: [u8; 12] = [0; 12];
/// What curve arithmetic takes when nothing is inlined.
const STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> FleetSecret {
        FleetSecret::parse(FleetSecret::generate().unwrap().as_bytes()).unwrap()
    }

    const HERE: Place<'_> = Place { namespace: "edge", epoch: 7, generation: 1 };
    const LEFT: Duration = Duration::from_millis(1_234_567);

    #[test]
    fn a_sealed_key_opens_for_its_member_in_its_place_and_nowhere_else() {
        let (secret, pair, key) = (secret(), Pair::random().unwrap(), EpochKey::random().unwrap());
        let commitment = commitment(&key, HERE).unwrap();
        let here = Address { place: HERE, member: 5, commitment: &commitment };
        let sealed = seal(&key, LEFT, &pair.public, &secret, here).unwrap();
        let (opened, left) = pair.open(&sealed, &secret, here).unwrap();
        assert_eq!((opened.id(), left), (key.id(), LEFT));

        assert!(Pair::random().unwrap().open(&sealed, &secret, here).is_none());
        assert!(pair.open(&sealed, &self::secret(), here).is_none());
        let other_place = Place { epoch: 8, ..HERE };
        for elsewhere in [
            Address { place: other_place, ..here },
            Address { member: 6, ..here },
            Address { commitment: &[0; 32], ..here },
        ] {
            assert!(pair.open(&sealed, &secret, elsewhere).is_none());
        }
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            // The highest bit of a point is not looked at, but it is bound.
            assert!(pair.open(&changed, &secret, here).is_none(), "{place}");
            assert!(pair.open(&sealed[..place], &secret, here).is_none(), "{place}");
        }
    }

    #[test]
    fn nobody_seals_without_the_fleet_secret_or_under_another_name() {
        let (ours, theirs, pair) = (secret(), secret(), Pair::random().unwrap());
        let (key, other) = (EpochKey::random().unwrap(), EpochKey::random().unwrap());
        let commitment = commitment(&key, HERE).unwrap();
        let here = Address { place: HERE, member: 5, commitment: &commitment };
        let forged = seal(&key, LEFT, &pair.public, &theirs, here).unwrap();
        let renamed = [&ours.id().to_be_bytes()[..], &forged[8..]].concat();
        assert!(pair.open(&forged, &ours, here).is_none() && pair.open(&renamed, &ours, here).is_none());
        let not_it = seal(&other, LEFT, &pair.public, &ours, here).unwrap();
        assert!(pair.open(&not_it, &ours, here).is_none(), "not the key that was claimed");
    }

    #[test]
    fn a_point_that_gives_everybody_the_same_secret_is_refused() {
        let (secret, key) = (secret(), EpochKey::random().unwrap());
        let here = Address { place: HERE, member: 5, commitment: &[1; 32] };
        assert!(seal(&key, LEFT, &[0; 32], &secret, here).is_none());
    }
}
