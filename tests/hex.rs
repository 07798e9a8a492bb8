//! Bytes that are written as digits.

/// Two digits are a byte.
#[track_caller]
pub(crate) fn bytes(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|place| u8::from_str_radix(&digits[place..place + 2], 16).unwrap()).collect()
}
