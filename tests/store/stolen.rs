//! What whoever has stolen a fleet's secret can write.

#[path = "../hex.rs"]
mod hex;

/// The record of a generation as somebody who has stolen the fleet's secret writes it, for the namespace `edge`.
pub(crate) fn stolen(secret: &str, epoch: u64, number: u64) -> Vec<u8> {
    signed(secret, b"generat.", epoch, &[number.to_be_bytes(), [0; 8]].concat())
}

/// The record of a node that was written so long before `record`, in the namespace `edge`.
pub(crate) fn aged(secret: &str, record: &[u8], by: std::time::Duration) -> Vec<u8> {
    let mut body = record[9..record.len() - 32].to_vec();
    // When it was written, and until when the node may have a key.
    for time in body[8..24].chunks_exact_mut(8) {
        let earlier = u64::from_be_bytes(time.try_into().unwrap()) - by.as_millis() as u64;
        time.copy_from_slice(&earlier.to_be_bytes());
    }
    signed(secret, b"node....", 0, &body)
}

fn signed(secret: &str, purpose: &[u8; 8], epoch: u64, body: &[u8]) -> Vec<u8> {
    let digits = &secret.trim()["ipveil-fleet-1-".len()..][..64];
    let bytes = hex::bytes(digits);
    let id = blake3::derive_key("ipveil fleet secret v1 public id", &bytes);
    let mac = blake3::derive_key("ipveil fleet secret v1 records", &bytes);
    let record = [&[1], &id[..8], body].concat();
    let place = [&purpose[..], b"\x04edge", &epoch.to_be_bytes(), &[0; 8]].concat();
    let signature = blake3::keyed_hash(&mac, &[&place[..], &record].concat());
    [&record[..], signature.as_bytes()].concat()
}
