//! The alphabet of byte-level vocabularies: one printable character for each byte.
//! Source: GPT-2's `bytes_to_unicode`. Knows nothing of tokens.

/// Whether GPT-2 writes the byte as the character of the same number.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Character of each byte: itself where printable, else the next one from U+0100 on.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let code = if is_printable(byte as u8) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => '\0',
        };
        byte += 1;
    }
    chars
};

/// Byte of each character below U+0144; 256 where there is none.
const BYTES: [u16; 0x144] = {
    let mut bytes = [256; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    bytes
};

/// The byte that `c` stands for, if it is of the alphabet.
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    BYTES
        .get(c as usize)
        .and_then(|&byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        for byte in 0..=255 {
            assert_eq!(char_to_byte(CHARS[byte as usize]), Some(byte));
        }
        assert_eq!([CHARS[0x20], CHARS[0x0A], CHARS[0xAD]], ['Ġ', 'Ċ', 'Ń']);
        assert_eq!(
            [
                char_to_byte(' '),
                char_to_byte('\u{144}'),
                char_to_byte('語')
            ],
            [None; 3]
        );
    }
}
