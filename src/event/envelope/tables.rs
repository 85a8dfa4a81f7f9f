//! The tables whose rows a source brings.
//!
//! In: names of database, schema and table as envelopes have them. Out: which streams read the table,
//! and the keys of its rows, in the order in which it writes them.
//! Invariant: no I/O; no more than [`TABLES_MAX`] tables are remembered.

use hashbrown::HashMap;

use super::members::plain;
use crate::event::column::Column;
use crate::event::json::Keys;

/// Tables that are remembered; beyond them all are forgotten, and learnt again.
const TABLES_MAX: usize = 1024;

/// What a stream reads.
#[derive(Debug)]
pub(in crate::event) struct Reads {
    /// Patterns; none: every table.
    pub(in crate::event) tables: Vec<String>,
    /// Source columns of the row as it is, and as it was.
    pub(in crate::event) columns: Vec<usize>,
}

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    /// By stream: whether it reads the table.
    pub(super) streams: Vec<bool>,
    /// Whether any does.
    pub(super) is_read: bool,
    /// Keys of the row as it is, and as it was.
    pub(super) after: Keys,
    pub(super) before: Keys,
    /// Keys up to here are known to be read or were told.
    told: usize,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tables {
    streams: Vec<Reads>,
    /// As written, with what is between them.
    by_name: HashMap<String, usize>,
    tables: Vec<Table>,
    last: (String, usize),
    name: String,
}

impl Tables {
    pub(super) fn new(streams: Vec<Reads>) -> Self {
        let (by_name, tables) = (HashMap::new(), Vec::new());
        let (last, name) = ((String::new(), usize::MAX), String::new());
        Self { streams, by_name, tables, last, name }
    }

    /// Whether the table matters at all.
    pub(super) fn matter(&self) -> bool {
        self.streams.iter().any(|stream| !stream.tables.is_empty())
    }

    /// The index of the table with these names of database, schema and table, each as JSON.
    pub(super) fn find(&mut self, names: [Option<&str>; 3], columns: &[Column]) -> usize {
        self.name.clear();
        for name in names {
            self.name.push_str(name.unwrap_or_default());
            self.name.push('\0');
        }
        if self.last.1 < self.tables.len() && self.last.0 == self.name {
            return self.last.1;
        }
        let at = match self.by_name.get(&self.name) {
            Some(at) => *at,
            None => self.learn(names, columns),
        };
        self.last.0.clone_from(&self.name);
        self.last.1 = at;
        at
    }

    fn learn(&mut self, names: [Option<&str>; 3], columns: &[Column]) -> usize {
        let names: Vec<_> = names.into_iter().flatten().map(plain).collect();
        let reads = |stream: &Reads| {
            stream.tables.is_empty()
                || stream.tables.iter().any(|pattern| is_named(pattern, &names))
        };
        let streams: Vec<bool> = self.streams.iter().map(reads).collect();
        let read = self.streams.iter().zip(&streams).filter(|(_, reads)| **reads);
        let mut read: Vec<usize> = read.flat_map(|(s, _)| s.columns.iter().copied()).collect();
        read.sort_unstable();
        read.dedup();
        let image = |before: bool| {
            let of_row = |at: &&usize| !columns[**at].envelope;
            let of_image = move |at: &&usize| columns[**at].member.is_some() == before;
            let read = read.iter().filter(of_row).filter(of_image);
            Keys::of_columns(read.map(|at| (columns[*at].from.as_str(), *at)))
        };
        let (after, before) = (image(false), image(true));
        let (told, is_read) = (after.len(), streams.contains(&true));
        let at = self.tables.len();
        self.tables.push(Table { streams, is_read, after, before, told });
        self.by_name.insert(self.name.clone(), at);
        at
    }

    pub(super) fn get(&self, at: usize) -> &Table {
        &self.tables[at]
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut Table {
        &mut self.tables[at]
    }

    /// Before a batch: forgets all when there are too many.
    pub(super) fn start(&mut self) {
        if self.tables.len() >= TABLES_MAX {
            self.tables.clear();
            self.by_name.clear();
            self.last.1 = usize::MAX;
        }
    }

    /// Columns of rows that no stream reads and that were not told before, by stream.
    pub(super) fn unread(&mut self) -> Vec<Vec<String>> {
        let mut all = vec![Vec::new(); self.streams.len()];
        for table in self.tables.iter_mut().filter(|table| table.after.len() > table.told) {
            let names: Vec<String> = table.after.unread(table.told).map(str::to_owned).collect();
            table.told = table.after.len();
            let read = all.iter_mut().zip(&table.streams).filter(|(_, reads)| **reads);
            read.for_each(|(all, _)| all.extend(names.iter().cloned()));
        }
        all
    }
}

/// Whether a pattern names a table: by its name, or with those of schema or database in front.
fn is_named(pattern: &str, names: &[std::borrow::Cow<'_, str>]) -> bool {
    let mut full = String::new();
    let mut matched = false;
    for name in names.iter().rev() {
        full = if full.is_empty() { name.to_string() } else { format!("{name}.{full}") };
        matched |= matches(pattern, &full);
    }
    // PostgreSQL's tables are known by database and name, too.
    if let [database, _, table] = names {
        matched |= matches(pattern, &format!("{database}.{table}"));
    }
    matched
}

/// `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn tables_are_named_with_and_without_database() {
        let check = |pattern: &str, names: &[&str], expect: bool| {
            let names: Vec<_> = names.iter().map(|name| (*name).into()).collect();
            assert_eq!(is_named(pattern, &names), expect, "{pattern}");
        };
        for (pattern, expect) in [
            ("orders", true),
            ("shop.orders", true),
            ("shop_*.orders", false),
            ("*.orders", true),
            ("shop.*", true),
            ("ord*s", true),
            ("order", false),
            ("*order", false),
            ("other.orders", false),
        ] {
            check(pattern, &["shop", "orders"], expect);
        }
        check("public.customers", &["inventory", "public", "customers"], true);
        check("inventory.customers", &["inventory", "public", "customers"], true);
        check("inventory.public.customers", &["inventory", "public", "customers"], true);
        check("inventory", &["inventory", "public", "customers"], false);
        check("shop_*.orders_*", &["shop_03", "orders_117"], true);
    }
}
