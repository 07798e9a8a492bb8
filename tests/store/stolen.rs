//! What whoever has stolen a fleet's secret can write.

#[path = "../hex.rs"]
mod hex;

/// The record of a generation as somebody who has stolen the fleet's secret writes it, for the namespace `edge`.
pub(crate) fn stolen(secret: &str, epoch: u64, number: u64) -> Vec<u8> {
    let digits = &secret.trim()["ipveil-fleet-1-".len()..][..64];
    let bytes = hex::bytes(digits);
    let id = blake3::derive_key("ipveil fleet secret v1 public id", &bytes);
    let mac = blake3::derive_key("ipveil fleet secret v1 records", &bytes);
    let record = [&[1], &id[..8], &number.to_be_bytes(), &[0; 8]].concat();
    let place = [&b"generat.\x04edge"[..], &epoch.to_be_bytes(), &[0; 8]].concat();
    let signature = blake3::keyed_hash(&mac, &[&place[..], &record].concat());
    [&record[..], signature.as_bytes()].concat()
}
