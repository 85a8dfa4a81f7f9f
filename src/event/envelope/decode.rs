//! Blocks of envelopes through a decoder.
//!
//! In: whole lines, each a record. Out: what its streams make of them, with a place for each row: a
//! record of several has one offset and an index a row.
//! Invariant: no I/O; every record is accounted for: rows, counted, or rejects.

use super::{Broken, Read, Reader, shown_record};
use crate::event::place::{Lines, RowPlace};
use crate::event::reject::{Reject, Shown};
use crate::event::{Decoded, Decoder, memchr};

impl Decoder {
    /// Decodes a block of whole lines, each a record of change data capture.
    pub(in crate::event) fn records_of_changes(
        &mut self,
        block: &[u8],
        lines: Lines<'_>,
        latest_ms: Option<i64>,
    ) -> Decoded {
        self.clear();
        let mut decoded = Decoded::default();
        let Some(mut envelopes) = self.envelopes.take() else { return decoded };
        envelopes.start();
        let (mut at, mut start) = (0, 0);
        while start < block.len() {
            let end = memchr(block, start);
            let text = &block[start..end];
            if lines.are_records() || !text.iter().all(u8::is_ascii_whitespace) {
                let place = lines.place(at, start, end);
                match envelopes.read(text, &mut self.columns, &self.zone) {
                    Ok(Read::Nothing) => decoded.rows += u64::from(place.tells()),
                    Ok(Read::Rows(rows)) => {
                        decoded.rows += u64::from(rows) * u64::from(place.tells());
                        self.places.extend((0..rows).map(|index| RowPlace {
                            index,
                            rows,
                            ..place
                        }));
                    }
                    Err(_) if !place.tells() => {}
                    Err(broken) => {
                        decoded.rows += u64::from(broken.rows);
                        self.broken_record(place, text, &broken, &envelopes, &mut decoded);
                    }
                }
            }
            at += 1;
            start = end + 1;
        }
        let unread = envelopes.unread();
        self.envelopes = Some(envelopes);
        self.finish(latest_ms, &mut decoded, |place, masks| {
            let row = (place.index as usize, place.rows as usize);
            shown_record(&block[place.start..place.end], row, masks)
        });
        for (block, unread) in decoded.blocks.iter_mut().zip(unread) {
            block.unread = unread;
        }
        decoded
    }

    /// Rows that no stream can read: a reject for each row and stream that is concerned.
    fn broken_record(
        &self,
        place: RowPlace,
        record: &[u8],
        broken: &Broken,
        envelopes: &Reader,
        out: &mut Decoded,
    ) {
        let streams = self.names.iter().zip(&self.masks).enumerate();
        let concerned: Vec<_> =
            streams.filter(|(nth, _)| envelopes.concerns(broken, *nth)).map(|(_, s)| s).collect();
        if concerned.is_empty() {
            return;
        }
        out.rejected_rows += u64::from(broken.rows);
        for index in 0..broken.rows {
            for (stream, masks) in &concerned {
                let row = (index as usize, broken.rows as usize);
                let Shown { text, whole, .. } = shown_record(record, row, masks);
                out.rejects.push(Reject {
                    stream: (*stream).clone(),
                    reason: broken.reason,
                    detail: broken.why.clone(),
                    source: place.source(&self.source),
                    line: place.line,
                    offset: place.offset,
                    index,
                    row: text,
                    row_bytes: record.len() as u64,
                    arrived_ms: place.arrival_ms,
                    whole,
                });
            }
        }
    }
}
