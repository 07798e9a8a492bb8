//! The checksum of version 2 (RFC 3720, B.4).

/// Of all pieces, one after the other.
pub(super) fn crc32c<const N: usize>(pieces: [&[u8]; N]) -> u32 {
    !pieces.into_iter().flatten().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// Of each byte, with the polynomial's lowest bit first.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // RFC 3720, B.4.
        assert_eq!(crc32c([&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c([&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
        assert_eq!(crc32c([b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
