//! Changes of a table's rows: what happened, the row as it was, the row as it is, its version.
//!
//! In: source columns of a batch: the row as it is (`after`), the row as it was (`before`), the
//! operation, the version. A format fills them; nothing here knows how a change is written. Out: for
//! each row a [`Change`]: whether its after-image is to be kept, and which user it leaves.
//!
//! An update is a deletion of the row as it was and an insertion of the row as it is, each for its
//! own user, and each only if `where` is true for it. Both carry the version of the change, so that
//! the greatest version wins for each user, whatever the order in which changes come.
//! Invariant: no I/O; a change whose before-image cannot be used does nothing at all.

use super::Batch;
use super::before::Before;
use super::column::{Column, Values};
use super::envelope::Kind;
use super::inputs::Inputs;
use super::reject::Reason;
use super::row_expr::{RowExpr, View};
use super::stream::{Refused, column_expr, refuse, uid_hash_at};
use crate::catalog::model::{self, Catalog, Changelog, ColumnType, OperationKind};
use crate::rule::safe::NotExecutable;
use crate::user::layout::{StreamLayout, ValueKind, hash64};
use crate::user::texts::Texts;

/// What to do where before-images lack something.
const REMEDY: &str =
    "have the database log whole rows (binlog_row_image=FULL, REPLICA IDENTITY FULL)";

/// What to do where a table was emptied.
const EMPTIED: &str = "the table was emptied, and its rows are not known one by one: they stay. Read it \
                       again into a new store, and empty tables with DELETE";

/// Which of its images says whom a row leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Image {
    /// The row as it is. Of a deletion without before-image: the row as written.
    After,
    /// The row as it was.
    Before,
}

/// What one source row does to a table's row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// `None`: an unknown word, or none.
    pub(super) operation: Option<OperationKind>,
    /// The image whose user the row leaves.
    pub(super) leaves: Option<Image>,
    /// Greater is newer.
    pub(super) version: u64,
    /// Hash of the key: as it is, as it was.
    keys: [u64; 2],
}

impl Change {
    /// The key of an image.
    pub(super) fn key(&self, image: Image) -> u64 {
        self.keys[image as usize]
    }
}

/// The columns that tell a table's rows apart.
#[derive(Debug)]
pub(super) struct Key {
    words: Vec<RowExpr>,
    image: Image,
}

/// A stream as its changes are read.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) stream: &'a model::Stream,
    pub(super) changelog: &'a Changelog,
    pub(super) layout: &'a StreamLayout,
    pub(super) columns: &'a [Column],
}

/// Reads the changes of one stream.
#[derive(Debug)]
pub(super) struct Changes {
    /// `None`: the envelope says it; without envelope every row is one that is there.
    operation: Option<(usize, String)>,
    words: Vec<(String, OperationKind)>,
    /// By code of the operation's text.
    by_code: Vec<Option<OperationKind>>,
    generation: u64,
    /// Source column and name; `None`: the place in the log.
    version: Option<(usize, String)>,
    uid: usize,
    /// Source column and name of what a deletion without before-image must hold.
    needed: Vec<(usize, String)>,
    key: Key,
    before: Option<Before>,
    /// By row of the batch.
    pub(super) rows: Vec<Change>,
}

impl Key {
    pub(super) fn new(
        table: Table<'_>,
        inputs: &Inputs,
        image: Image,
    ) -> Result<Self, NotExecutable> {
        let Table { catalog, stream, changelog, columns, .. } = table;
        let word = |at: &usize| {
            let column = &stream.columns[*at];
            let kind = match column.kind {
                ColumnType::String => ValueKind::Hash,
                _ => ValueKind::U64,
            };
            RowExpr::new(&column_expr(column, catalog, stream), kind, inputs, columns)
        };
        let words = changelog.primary_key.iter().map(word).collect::<Result<_, _>>()?;
        Ok(Self { words, image })
    }

    /// Hashes the key of each row.
    pub(super) fn read(
        &mut self,
        batch: &Batch<'_>,
        inputs: &mut Inputs,
        texts: &Texts,
        rows: &mut [Change],
    ) {
        let image = self.image as usize;
        for word in &mut self.words {
            word.prepare(batch, inputs, texts);
            word.view(batch.columns).each(0..batch.rows, rows.iter_mut(), |change, word, _| {
                let both = (u128::from(change.keys[image]) << 64) | u128::from(word);
                change.keys[image] = hash64(&both.to_le_bytes());
            });
        }
    }
}

impl Changes {
    /// `after`: for each declared column its source column; `before`: the same for the row as it
    /// was, empty where rows never leave their user.
    pub(super) fn new(
        table: Table<'_>,
        after: &[usize],
        before: &[usize],
        inputs: &Inputs,
    ) -> Result<Self, NotExecutable> {
        let Table { stream, changelog, .. } = table;
        let named = |at: usize| (after[at], stream.columns[at].name.clone());
        let before = match &changelog.before {
            Some(name) => Some(Before::new(table, name, before)?),
            None => None,
        };
        let needed = std::iter::once(stream.uid).chain(changelog.primary_key.iter().copied());
        Ok(Self {
            operation: changelog.operation.as_ref().map(|o| named(o.column)),
            words: changelog.operation.as_ref().map_or_else(Vec::new, |o| o.words.clone()),
            by_code: Vec::new(),
            generation: u64::MAX,
            version: changelog.version.map(named),
            uid: after[stream.uid],
            needed: needed.map(named).collect(),
            key: Key::new(table, inputs, Image::After)?,
            before,
            rows: Vec::new(),
        })
    }

    /// The source column with the uid of an image.
    pub(super) fn uid(&self, image: Image) -> usize {
        match (image, &self.before) {
            (Image::Before, Some(before)) => before.uid,
            _ => self.uid,
        }
    }

    /// Reads operations, before-images and versions. What is not `wanted` afterwards has no
    /// after-image to be looked at. Returns for how many rows `where` could not be computed.
    pub(super) fn read(
        &mut self,
        batch: &Batch<'_>,
        texts: &Texts,
        wanted: &mut [bool],
        refused: &mut Vec<Refused>,
    ) -> u64 {
        self.rows.clear();
        self.rows.resize(batch.rows, Change::default());
        self.read_operations(batch, wanted, refused);
        let failed = self.read_before(batch, texts, wanted, refused);
        self.read_versions(batch, wanted, refused);
        for (change, wanted) in self.rows.iter_mut().zip(wanted) {
            change.leaves = change.leaves.filter(|_| *wanted);
            *wanted &= change.operation != Some(OperationKind::Delete);
        }
        failed
    }

    fn read_operations(
        &mut self,
        batch: &Batch<'_>,
        wanted: &mut [bool],
        refused: &mut Vec<Refused>,
    ) {
        let Some((column, name)) = &self.operation else {
            return self.take_operations(batch, wanted, refused);
        };
        let column = &batch.columns[*column];
        for (row, reason) in &column.errors {
            refuse(wanted, refused, *row as usize, *reason, name);
        }
        let Values::Text(codes, dictionary) = &column.values else { return };
        if self.generation != dictionary.generation {
            self.by_code.clear();
            self.generation = dictionary.generation;
        }
        for code in self.by_code.len()..dictionary.len() {
            let text = dictionary.text(code);
            let known = self.words.iter().find(|(word, _)| Some(word.as_str()) == text);
            self.by_code.push(known.map(|(_, kind)| *kind));
        }
        for (row, code) in codes.iter().enumerate() {
            let code = *code as usize;
            self.rows[row].operation = self.by_code[code];
            match (self.by_code[code], dictionary.text(code)) {
                (Some(_), _) => {}
                (None, None) => refuse(wanted, refused, row, Reason::Missing, name),
                (None, Some(word)) => {
                    let known: Vec<&str> = self.words.iter().map(|w| w.0.as_str()).collect();
                    let why = format!("{name}: `{word}` is none of {}", known.join(", "));
                    refuse(wanted, refused, row, Reason::Operation, &why);
                }
            }
        }
    }

    /// Operations as the envelopes have them.
    fn take_operations(
        &mut self,
        batch: &Batch<'_>,
        wanted: &mut [bool],
        refused: &mut Vec<Refused>,
    ) {
        let Some(envelopes) = batch.envelopes else {
            let inserted = Some(OperationKind::Insert);
            self.rows.iter_mut().for_each(|change| change.operation = inserted);
            return;
        };
        for (row, kind) in envelopes.kinds().enumerate() {
            self.rows[row].operation = kind.operation();
            if kind == Kind::Truncate {
                refuse(wanted, refused, row, Reason::Truncated, EMPTIED);
            }
        }
    }

    /// Decides which image says whom a row leaves, and whether it can.
    fn read_before(
        &mut self,
        batch: &Batch<'_>,
        texts: &Texts,
        wanted: &mut [bool],
        refused: &mut Vec<Refused>,
    ) -> u64 {
        let lacking = self.before.as_ref().map(|before| before.lacking(batch)).unwrap_or_default();
        for (row, change) in self.rows.iter_mut().enumerate() {
            let before = self.before.as_ref();
            let is_there = before.is_some_and(|before| before.is_there(batch, row));
            change.leaves = match change.operation {
                Some(OperationKind::Delete) if !is_there => Some(Image::After),
                Some(OperationKind::Delete) => Some(Image::Before),
                Some(OperationKind::Update) if before.is_some() => Some(Image::Before),
                _ => None,
            };
            match (change.leaves, before) {
                (Some(Image::Before), Some(before)) => {
                    if let Some((reason, name)) = before.unread(batch, row) {
                        let why = format!("{}.{name}", before.name);
                        refuse(wanted, refused, row, reason, &why);
                    } else if let Some(name) = lacking[row].or_else(|| before.keyless(batch, row)) {
                        let why = format!("`{}` lacks `{name}`: {REMEDY}", before.name);
                        refuse(wanted, refused, row, Reason::BeforeMissing, &why);
                    }
                }
                (Some(Image::After), _) => {
                    let holds = |(at, _): &&(usize, String)| !batch.columns[*at].valid.holds(row);
                    if let Some((_, name)) = self.needed.iter().find(holds) {
                        let why = format!("a deletion lacks `{name}`: {REMEDY}");
                        refuse(wanted, refused, row, Reason::BeforeMissing, &why);
                    }
                }
                _ => {}
            }
        }
        self.before.as_mut().map_or(0, |before| before.apply_filter(batch, texts, &mut self.rows))
    }

    fn read_versions(
        &mut self,
        batch: &Batch<'_>,
        wanted: &mut [bool],
        refused: &mut Vec<Refused>,
    ) {
        let Some((after, name)) = &self.version else {
            let places = self.rows.iter_mut().zip(batch.places);
            places.for_each(|(change, place)| change.version = place.offset);
            return;
        };
        let before = self.before.as_ref().and_then(|before| before.version);
        for (row, reason) in &batch.columns[*after].errors {
            refuse(wanted, refused, *row as usize, *reason, name);
        }
        for (row, change) in self.rows.iter_mut().enumerate() {
            // A deletion has the version of the row that it deletes, if it has none of its own.
            let of_before = before.filter(|_| change.operation == Some(OperationKind::Delete));
            let columns = [Some(*after), of_before].into_iter().flatten();
            let found = columns.map(|at| &batch.columns[at]).find(|c| c.valid.holds(row));
            match found.map(|column| &column.values) {
                Some(Values::U64(versions)) => change.version = versions[row],
                Some(Values::I64(versions)) => {
                    change.version = versions[row].cast_unsigned() ^ (1 << 63);
                }
                _ => refuse(wanted, refused, row, Reason::Missing, name),
            }
        }
    }

    /// Deletions without before-image are looked at by `where` as they are written.
    pub(super) fn apply_filter(&mut self, filter: View<'_>) {
        let rows = 0..self.rows.len();
        filter.each(rows, self.rows.iter_mut(), |change, word, valid| {
            if change.leaves == Some(Image::After) && !(valid && word == 1) {
                change.leaves = None;
            }
        });
    }

    /// Leaves users alone that are quarantined.
    pub(super) fn check_quarantine(&mut self, batch: &Batch<'_>, refused: &mut Vec<Refused>) {
        for row in 0..self.rows.len() {
            let Some(image) = self.rows[row].leaves else { continue };
            let hash = uid_hash_at(&batch.columns[self.uid(image)], row);
            if !hash.is_some_and(|hash| batch.quarantine.holds(hash))
                || !batch.is_for(self.uid(image), row)
            {
                continue;
            }
            self.rows[row].leaves = None;
            // The row as it is may have been refused for the same user.
            let mut said =
                [!refused.iter().any(|r| r.row as usize == row && r.reason == Reason::Quarantined)];
            let mut new = Vec::new();
            refuse(&mut said, &mut new, 0, Reason::Quarantined, "the row leaves such a user");
            let row = u32::try_from(row).unwrap_or(u32::MAX);
            refused.extend(new.into_iter().map(|r| Refused { row, ..r }));
        }
    }

    /// Leaves to other copies of a record who belongs elsewhere.
    pub(super) fn leave_to_others(&mut self, batch: &Batch<'_>) {
        for row in 0..self.rows.len() {
            let leaves = self.rows[row].leaves;
            self.rows[row].leaves = leaves.filter(|image| batch.is_for(self.uid(*image), row));
        }
    }

    /// Reads keys. A row that is kept by the same user under the same key leaves nobody. Returns how
    /// many rows come to another user.
    pub(super) fn settle(
        &mut self,
        batch: &Batch<'_>,
        inputs: &mut Inputs,
        texts: &Texts,
        wanted: &[bool],
    ) -> u64 {
        self.key.read(batch, inputs, texts, &mut self.rows);
        let (after, before) = (self.uid(Image::After), self.uid(Image::Before));
        let (after, before) = (&batch.columns[after].values, &batch.columns[before].values);
        let mut moved = 0;
        for (row, change) in self.rows.iter_mut().enumerate() {
            if change.leaves != Some(Image::Before) || !wanted[row] {
                continue;
            }
            let stays = match (after, before) {
                (Values::U64(after), Values::U64(before)) => after[row] == before[row],
                (Values::Plain(after), Values::Plain(before)) => after[row] == before[row],
                _ => false,
            };
            moved += u64::from(!stays && batch.places[row].tells());
            if stays && change.key(Image::After) == change.key(Image::Before) {
                change.leaves = None;
            }
        }
        moved
    }
}
