//! Whole numbers in as few bytes as they need: LEB128, signed ones zigzag first
//! (<https://protobuf.dev/programming-guides/encoding/#varints>).
//!
//! In: numbers or bytes. Out: the other. Invariant: reading never goes beyond the bytes given.

/// Appends an unsigned number, 1 to 10 bytes.
#[expect(clippy::cast_possible_truncation, reason = "the masked low 7 bits are what is wanted")]
#[inline]
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    if (0x80..0x4000).contains(&value) {
        // At once: with those of one byte nearly all there are.
        out.extend_from_slice(&[(value as u8) | 0x80, (value >> 7) as u8]);
        return;
    }
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an unsigned number from the front of `bytes`. `None`: cut off or longer than 64 bits.
#[inline]
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        value |= low << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Appends a signed number: small magnitudes take few bytes.
#[inline]
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Takes a signed number from the front of `bytes`.
#[inline]
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = take_u64(bytes)?;
    Some((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()))
}

/// Appends a length and the bytes.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_u64(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Takes a length and that many bytes from the front.
#[inline]
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_u64(bytes)?).ok()?;
    let (value, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let signed = [0, 1, -1, 63, -64, 64, -65, i64::MAX, i64::MIN, 1 << 35];
        for value in signed {
            let mut bytes = Vec::new();
            put_i64(&mut bytes, value);
            put_u64(&mut bytes, value.cast_unsigned());
            let mut rest = bytes.as_slice();
            assert_eq!(take_i64(&mut rest), Some(value));
            assert_eq!(take_u64(&mut rest), Some(value.cast_unsigned()));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        for bad in [&[][..], &[0x80], &[0xff; 10], &[0xff; 11]] {
            assert_eq!(take_u64(&mut &*bad), None, "{bad:?}");
        }
        assert_eq!(take_bytes(&mut &[3, 1, 2][..]), None);
    }
}
