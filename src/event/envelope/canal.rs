//! canal's flat messages: <https://github.com/alibaba/canal/wiki/Canal-Kafka-RocketMQ-QuickStart>.
//!
//! In: one JSON object a statement: `data` lists its rows as they are (of a deletion: as they were),
//! `old` for each the columns that were other before; all values are texts. Out: a change a row; DDL
//! and texts of statements are counted.
//!
//! canal reads rows by the columns that the table has when it reads them: of a row from before an
//! ALTER, values then stand in other columns. What gives it away is that the type of the logged value
//! (`sqlType`) is not the column's (`mysqlType`).
//! Invariant: no I/O; a message is used whole or not at all.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde_json::value::RawValue;

use super::members::plain;
use super::{Broken, Change, Kind, Read, Reader};
use crate::clock::Zone;
use crate::event::column::Column;
use crate::event::reject::Reason;
use crate::user::layout::hash64;

/// Members of a record, by index; those that columns ask for follow.
pub(super) const MEMBERS: [&str; 7] =
    ["data", "old", "type", "database", "table", "mysqlType", "sqlType"];
const DATA: usize = 0;
const OLD: usize = 1;
const TYPE: usize = 2;
const DATABASE: usize = 3;
const TABLE: usize = 4;
const MYSQL_TYPE: usize = 5;
const SQL_TYPE: usize = 6;

/// Tables' types that are remembered; beyond them all are forgotten, and looked at again.
const TYPES_MAX: usize = 1024;

/// What only these messages need.
#[derive(Debug, Default)]
pub(super) struct Canal {
    /// By hash of the types: what is wrong with them.
    types: HashMap<u64, Option<String>>,
}

impl Reader {
    /// Reads a message.
    pub(super) fn read_canal(
        &mut self,
        canal: &mut Canal,
        line: &str,
        columns: &mut [Column],
        zone: &Zone,
    ) -> Result<Read, Broken> {
        self.members.read(line).map_err(Broken::malformed)?;
        let Some(word) = self.members.get(line, TYPE) else {
            let why = "no `type`: this is no flat message of canal".to_owned();
            return Err(Broken::new(Reason::Malformed, why));
        };
        let names = [self.members.get(line, DATABASE), None, self.members.get(line, TABLE)];
        let table = self.tables.find(names, columns);
        let kind = match &*plain(word) {
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            "DELETE" => Kind::Delete,
            "TRUNCATE" => Kind::Truncate,
            // The text of a statement whose rows follow.
            "QUERY" => return Ok(self.skip(|skipped| &mut skipped.marks)),
            _ => return Ok(self.skip_of(table, |skipped| &mut skipped.ddl)),
        };
        if !self.tables.get(table).is_read {
            return Ok(self.skip(|skipped| &mut skipped.other_tables));
        }
        let change = Change { kind, table, after: None, before: None, before_is_changes: true };
        if kind == Kind::Truncate {
            self.put(&change, line, columns, zone)?;
            return Ok(Read::Rows(1));
        }
        let broken = |reason, why: String, rows| Broken { reason, why, rows, table: Some(table) };
        let rows = list(self.members.get(line, DATA).unwrap_or("[]"));
        let rows = rows.ok_or_else(|| broken(Reason::Malformed, "`data` is no list".into(), 1))?;
        let old = self.members.get(line, OLD).filter(|_| kind == Kind::Update);
        let old = old.map(list);
        let fits =
            old.as_ref().is_none_or(|old| old.as_ref().is_some_and(|old| old.len() == rows.len()));
        if !fits {
            let why = "`old` does not list as many rows as `data`".to_owned();
            return Err(broken(Reason::Malformed, why, 1));
        }
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let types = (self.members.get(line, MYSQL_TYPE), self.members.get(line, SQL_TYPE));
        if let Some(why) = canal.wrong_types(types) {
            return Err(broken(Reason::Schema, why, count.max(1)));
        }
        let old = old.flatten();
        let first = self.rows.len();
        for (at, row) in rows.iter().enumerate() {
            let old = old.as_ref().map(|old| old[at].get());
            let change = Change { after: Some(row.get()), before: old, ..change };
            if let Err(error) = self.put(&change, line, columns, zone) {
                self.drop_rows(first, columns);
                return Err(error);
            }
        }
        Ok(Read::Rows(count))
    }
}

fn list(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json).ok()
}

impl Canal {
    /// Why types of columns do not fit those of the values, if so.
    fn wrong_types(&mut self, (mysql, sql): (Option<&str>, Option<&str>)) -> Option<String> {
        let (mysql, sql) = (mysql?, sql?);
        let hash = hash64(mysql.as_bytes()) ^ hash64(sql.as_bytes()).rotate_left(1);
        if let Some(known) = self.types.get(&hash) {
            return known.clone();
        }
        if self.types.len() == TYPES_MAX {
            self.types.clear();
        }
        let wrong = compare(mysql, sql);
        self.types.insert(hash, wrong.clone());
        wrong
    }
}

fn compare(mysql: &str, sql: &str) -> Option<String> {
    let mysql: BTreeMap<String, String> = serde_json::from_str(mysql).ok()?;
    let sql: BTreeMap<String, i32> = serde_json::from_str(sql).ok()?;
    let first = mysql.iter().find_map(|(column, declared)| {
        let logged = *sql.get(column)?;
        let differ = kind_of(declared)? != kind_of_code(logged)?;
        differ.then(|| format!("`{column}` is {declared}, its value of type {logged}"))
    })?;
    Some(format!(
        "{first} (java.sql.Types): canal read this row with the columns that the table has after an \
         ALTER; let it keep the table's history (canal.instance.tsdb.enable=true) and load the table \
         again"
    ))
}

/// What kind of values a type has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    Whole,
    Exact,
    Float,
    /// Texts and bytes: which of both a value is depends on its collation.
    Text,
    Date,
    Time,
    Instant,
}

/// Of MySQL's type; `None`: several codes may stand for it (enumerations, sets, bits, years, shapes).
fn kind_of(declared: &str) -> Option<ValueKind> {
    let end = declared.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(declared.len());
    match &*declared[..end].to_ascii_lowercase() {
        // An unsigned one is written with the next wider code; of 64 bits, as exact.
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" => Some(ValueKind::Whole),
        "bigint" if !declared.contains("unsigned") => Some(ValueKind::Whole),
        "decimal" | "numeric" => Some(ValueKind::Exact),
        "float" | "double" | "real" => Some(ValueKind::Float),
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "binary"
        | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Some(ValueKind::Text),
        "date" => Some(ValueKind::Date),
        "time" => Some(ValueKind::Time),
        "datetime" | "timestamp" => Some(ValueKind::Instant),
        _ => None,
    }
}

/// Of a code of `java.sql.Types`. A tinyint(1) may come as a bit.
fn kind_of_code(code: i32) -> Option<ValueKind> {
    match code {
        -7 | -6 | 5 | 4 | -5 | 16 => Some(ValueKind::Whole),
        3 | 2 => Some(ValueKind::Exact),
        6..=8 => Some(ValueKind::Float),
        1 | 12 | -1 | -15 | -9 | -16 | -2 | -3 | -4 | 2004 | 2005 | 2011 => Some(ValueKind::Text),
        91 => Some(ValueKind::Date),
        92 => Some(ValueKind::Time),
        93 | 2014 => Some(ValueKind::Instant),
        _ => None,
    }
}
