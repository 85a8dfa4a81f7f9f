//! JSON lines into columns.
//!
//! In: a block of lines, and where one begins. Out: one cell pushed to every column, or the reason
//! why the line is broken (then the columns are as before).
//! Invariant: no I/O; what is accepted, and as what, is what [`strict`] says: [`quick`] is only
//! faster, and gives up on whatever is not plain.

mod quick;
mod strict;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;

use super::column::Column;
use super::scan::Expected;
use crate::clock::Zone;

pub(super) use self::strict::{KeySeed, push_by_text, read_line};

/// Keys that nobody reads but that are remembered, so that they are expected where they stand.
const UNREAD_KEYS_MAX: usize = 64;

#[derive(Debug)]
struct Key {
    name: String,
    /// `"name":`, where that is how the name is written in JSON.
    written: Option<Expected>,
    /// The columns it feeds, in the order of the catalogue; none for a key that nobody reads.
    columns: Vec<usize>,
    /// The keys of the object that is its value, where columns stand in there.
    members: Option<Box<Keys>>,
}

/// Which columns each key feeds.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    by_name: HashMap<String, usize>,
    /// For each key the one that usually follows: producers write keys in one order. Index 0 is the
    /// start of the object, i + 1 stands behind key i.
    next: Vec<usize>,
    unread: usize,
}

impl Keys {
    pub(super) fn new(columns: &[Column]) -> Self {
        let mut all = Self::none();
        for (at, column) in columns.iter().enumerate() {
            match &column.member {
                None => all.feed(&column.from, at),
                Some(member) => {
                    let key = all.find(member).unwrap_or_else(|| all.add(member));
                    let members = &mut all.keys[key].members;
                    members.get_or_insert_with(|| Box::new(Self::none())).feed(&column.from, at);
                }
            }
        }
        all
    }

    fn none() -> Self {
        Self { keys: Vec::new(), by_name: HashMap::new(), next: vec![0], unread: 0 }
    }

    /// Names that are looked for but feed no column, in this order.
    pub(super) fn of_names<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut all = Self::none();
        for name in names {
            all.add(name);
        }
        all
    }

    /// Keys of an object that feed these columns, whatever objects they stand in.
    pub(super) fn of_columns<'n>(columns: impl Iterator<Item = (&'n str, usize)>) -> Self {
        let mut all = Self::none();
        columns.for_each(|(name, at)| all.feed(name, at));
        all
    }

    /// The key that follows another (0: the start, i + 1: key i) if it has this name, or the one
    /// that has; it is expected there from then on.
    fn follow(&mut self, after: usize, name: &str) -> Option<usize> {
        let guess = self.next[after];
        let is_expected = self.keys.get(guess).is_some_and(|key| key.name == name);
        let key = if is_expected { guess } else { self.find_or_learn(name)? };
        self.next[after] = key;
        Some(key)
    }

    /// Names of keys that were seen but feed no column, behind the first `seen` keys.
    pub(super) fn unread(&self, seen: usize) -> impl Iterator<Item = &str> {
        let new = self.keys.iter().skip(seen);
        new.filter(|key| key.columns.is_empty()).map(|key| key.name.as_str())
    }

    /// How many keys are known.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// A key's value feeds a column.
    fn feed(&mut self, name: &str, column: usize) {
        let key = self.find(name).unwrap_or_else(|| self.add(name));
        self.keys[key].columns.push(column);
    }

    fn add(&mut self, name: &str) -> usize {
        let at = self.keys.len();
        let is_plain = |c: char| c != '"' && c != '\\' && !c.is_control();
        let written =
            name.chars().all(is_plain).then(|| Expected::new(format!("\"{name}\":").into()));
        let (columns, members) = (Vec::new(), None);
        self.keys.push(Key { name: name.to_owned(), written, columns, members });
        self.by_name.insert(name.to_owned(), at);
        // Until a line says otherwise, keys come as the catalogue has them.
        self.next[at] = at;
        self.next.push(0);
        at
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The key, and where its value begins, if it is the one that followed last time.
    #[inline]
    fn expected(&self, block: &[u8], at: usize, after: usize) -> Option<(Option<usize>, usize)> {
        let guess = self.next[after];
        let behind = self.keys.get(guess)?.written.as_ref()?.behind(block, at)?;
        Some((Some(guess), behind))
    }

    /// The key with this name; one that nobody reads is remembered, as long as there are not many.
    fn find_or_learn(&mut self, name: &str) -> Option<usize> {
        let found = self.find(name);
        if found.is_some() || self.unread == UNREAD_KEYS_MAX {
            return found;
        }
        self.unread += 1;
        Some(self.add(name))
    }
}

/// Reads an object that is known to be JSON. What it does not mention gets no cell. On error some
/// columns may have got one.
pub(super) fn read_object(
    object: &str,
    columns: &mut [Column],
    keys: &mut Keys,
    (rows, zone): (usize, &Zone),
) -> Result<(), String> {
    let mut filled = 0;
    let end = quick::read_object(object.as_bytes(), 0, columns, keys, (rows, &mut filled), zone);
    if end == Some(object.len()) {
        return Ok(());
    }
    let inside = keys.keys.iter().flat_map(|key| &key.columns);
    inside.for_each(|at| columns[*at].truncate(rows));
    strict::read_object(object, keys, columns, (rows, zone)).map_err(|error| error.to_string())
}

/// Reads the line that begins at `start` of a block, if it is plain; gives the index of its line
/// break, or of the block's end. `None`: the columns are as before, and [`read_line`] decides.
#[inline]
pub(super) fn read_plain_line(
    block: &[u8],
    start: usize,
    columns: &mut [Column],
    keys: &mut Keys,
    zone: &Zone,
) -> Option<usize> {
    let rows = columns.first().map_or(0, Column::len);
    let end = quick::read_line(block, start, columns, keys, zone);
    if end.is_none() {
        columns.iter_mut().for_each(|column| column.truncate(rows));
    }
    end
}
