//! Codes from tag-major to user-major.
//!
//! In: one run of bytes per tag. Out: one run of bytes per user. Blocks of 8 by 8 bytes are turned
//! in registers: halves, quarters and single bytes change places (Warren, Hacker's Delight, 7-3).

const SIDE: usize = 8;

/// Eight lines of eight bytes.
type Block = [u64; SIDE];

/// `to[row * tags + tag] = from[tag * stride + row]` for `rows` rows.
pub(in crate::rule) fn transpose(
    from: &[u8],
    stride: usize,
    tags: usize,
    rows: usize,
    to: &mut [u8],
) {
    let (full_tags, full_rows) = (tags - tags % SIDE, rows - rows % SIDE);
    for row in (0..full_rows).step_by(SIDE) {
        for tag in (0..full_tags).step_by(SIDE) {
            let block: Block = std::array::from_fn(|i| {
                let start = (tag + i) * stride + row;
                let mut line = [0; SIDE];
                line.copy_from_slice(&from[start..start + SIDE]);
                u64::from_le_bytes(line)
            });
            for (i, line) in turn(block).iter().enumerate() {
                let start = (row + i) * tags + tag;
                to[start..start + SIDE].copy_from_slice(&line.to_le_bytes());
            }
        }
        plain(from, stride, tags, row..row + SIDE, full_tags..tags, to);
    }
    plain(from, stride, tags, full_rows..rows, 0..tags, to);
}

fn plain(
    from: &[u8],
    stride: usize,
    tags: usize,
    rows: std::ops::Range<usize>,
    some: std::ops::Range<usize>,
    to: &mut [u8],
) {
    for row in rows {
        let line = &mut to[row * tags..(row + 1) * tags];
        for tag in some.clone() {
            line[tag] = from[tag * stride + row];
        }
    }
}

fn turn(mut block: Block) -> Block {
    exchange::<4>(&mut block, 0x0000_0000_ffff_ffff);
    exchange::<2>(&mut block, 0x0000_ffff_0000_ffff);
    exchange::<1>(&mut block, 0x00ff_00ff_00ff_00ff);
    block
}

/// The high part of each upper line and the low part of the line `N` below it change places.
#[inline]
fn exchange<const N: usize>(block: &mut Block, low: u64) {
    for i in (0..SIDE).filter(|i| i & N == 0) {
        let (upper, lower) = (block[i], block[i + N]);
        block[i] = (upper & low) | ((lower & low) << (8 * N));
        block[i + N] = ((upper >> (8 * N)) & low) | (lower & !low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_arrives_at_its_user() {
        for (tags, rows, stride) in [(0, 3, 4), (1, 1, 1), (15, 17, 20), (16, 16, 16), (50, 40, 64)]
        {
            let byte =
                |tag: usize, row: usize| u8::try_from((tag * 31 + row * 7) % 251).unwrap_or(0);
            let mut from = vec![255; tags * stride];
            for tag in 0..tags {
                for row in 0..rows {
                    from[tag * stride + row] = byte(tag, row);
                }
            }
            let mut to = vec![254; tags * rows];
            transpose(&from, stride, tags, rows, &mut to);
            for row in 0..rows {
                for tag in 0..tags {
                    assert_eq!(to[row * tags + tag], byte(tag, row), "{tags} {rows} {tag} {row}");
                }
            }
        }
    }
}
