//! Codes from tag-major to user-major.
//!
//! In: one run of bytes per tag. Out: one run of bytes per user. Blocks of 16 by 16 bytes are
//! turned in registers: four rounds of interleaving halves.

const SIDE: usize = 16;

type Block = [[u8; SIDE]; SIDE];

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
                line
            });
            for (i, line) in turn(block).iter().enumerate() {
                let start = (row + i) * tags + tag;
                to[start..start + SIDE].copy_from_slice(line);
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

/// Four perfect shuffles of the block's 256 bytes turn it.
fn turn(mut block: Block) -> Block {
    for _ in 0..4 {
        let mut next = [[0; SIDE]; SIDE];
        for i in 0..SIDE / 2 {
            let (low, high) = (&block[i], &block[i + SIDE / 2]);
            for k in 0..SIDE / 2 {
                next[2 * i][2 * k] = low[k];
                next[2 * i][2 * k + 1] = high[k];
                next[2 * i + 1][2 * k] = low[k + SIDE / 2];
                next[2 * i + 1][2 * k + 1] = high[k + SIDE / 2];
            }
        }
        block = next;
    }
    block
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
