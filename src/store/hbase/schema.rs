//! The tables: what they must be, what is there, and how to make them.
//!
//! In: the options and the type of uids. Out: tables made through the gateway, statements for the
//! HBase shell where it can do what the gateway cannot, and what to alter in tables that are there.
//! Invariant: a table that is there is never changed.

use hbase_thrift::hbase::ColumnDescriptor;

use super::gateway::Gateway;
use super::{HbaseOptions, Tables};
use crate::catalog::model::UidType;
use crate::store::Result;

/// HBase's "for ever", in seconds.
const FOREVER_S: i32 = i32::MAX;

/// A family as it must be.
#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    ttl_s: i32,
}

impl Family {
    fn descriptor(self) -> ColumnDescriptor {
        ColumnDescriptor {
            name: Some(format!("{}:", self.name).into_bytes()),
            max_versions: Some(1),
            compression: Some("NONE".to_owned()),
            in_memory: Some(false),
            bloom_filter_type: Some("ROW".to_owned()),
            bloom_filter_vector_size: Some(0),
            bloom_filter_nb_hashes: Some(0),
            block_cache_enabled: Some(true),
            time_to_live: Some(self.ttl_s),
        }
    }

    fn shell(self) -> String {
        let Self { name, ttl_s } = self;
        let ttl = if ttl_s == FOREVER_S { String::new() } else { format!(", TTL => {ttl_s}") };
        format!("{{NAME => '{name}', VERSIONS => 1, BLOOMFILTER => 'ROW'{ttl}}}")
    }
}

/// A table that is there, or was made just now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// It was made by this call.
    pub made: bool,
    /// What is wrong with it, each with the statement for the HBase shell that mends it.
    pub wrong: Vec<String>,
}

fn forever(name: &'static str) -> Family {
    Family { name, ttl_s: FOREVER_S }
}

/// Families of dimension tables.
pub(super) fn dim_families() -> Vec<ColumnDescriptor> {
    vec![forever("d").descriptor()]
}

fn wanted(options: &HbaseOptions) -> Vec<(String, Vec<Family>)> {
    let Tables { profile, due, reject, meta } = Tables::new(&options.prefix);
    let kept_s = options.rejects_kept_days.saturating_mul(86_400);
    let kept_s = i32::try_from(kept_s).unwrap_or(FOREVER_S);
    vec![
        (profile, vec![forever("s"), forever("t")]),
        (due, vec![forever("d")]),
        (reject, vec![Family { name: "r", ttl_s: kept_s }]),
        (meta, vec![forever("m")]),
    ]
}

/// Makes the tables that are not there, and looks at those that are.
pub fn init(options: &HbaseOptions) -> Result<Vec<TableReport>> {
    let gateway = Gateway::new(options)?;
    let there = gateway.tables()?;
    let mut reports = Vec::new();
    for (table, families) in wanted(options) {
        if there.contains(&table) {
            let wrong = wrong(&gateway, &table, &families)?;
            reports.push(TableReport { table, made: false, wrong });
            continue;
        }
        gateway.create(&table, families.iter().map(|family| family.descriptor()).collect())?;
        reports.push(TableReport { table, made: true, wrong: Vec::new() });
    }
    Ok(reports)
}

fn wrong(gateway: &Gateway, table: &str, families: &[Family]) -> Result<Vec<String>> {
    let there = gateway.families(table)?;
    let mut wrong = Vec::new();
    for family in families {
        let name = family.name;
        let alter = format!("alter '{table}', {}", family.shell());
        let Some(found) = there.get(name) else {
            wrong.push(format!("it has no family `{name}`: {alter}"));
            continue;
        };
        let versions = found.max_versions.unwrap_or(1);
        if versions != 1 {
            wrong.push(format!("family `{name}` keeps {versions} versions, not 1: {alter}"));
        }
        let ttl_s = found.time_to_live.unwrap_or(FOREVER_S);
        if ttl_s != family.ttl_s {
            let shown =
                |s: i32| if s == FOREVER_S { "for ever".to_owned() } else { format!("{s} s") };
            wrong.push(format!(
                "family `{name}` keeps cells {}, not {}: alter '{table}', {{NAME => '{name}', TTL => \
                 {}}}",
                shown(ttl_s),
                shown(family.ttl_s),
                if family.ttl_s == FOREVER_S { "'FOREVER'".to_owned() } else { family.ttl_s.to_string() },
            ));
        }
    }
    Ok(wrong)
}

/// Statements for the HBase shell that make all tables, the profile table in `regions` regions from
/// the start: the gateway makes tables of one region only.
pub fn statements(options: &HbaseOptions, uid: UidType) -> Vec<String> {
    let splits = splits(options.regions, uid);
    let mut statements = Vec::new();
    for (at, (table, families)) in wanted(options).into_iter().enumerate() {
        let families: Vec<String> = families.into_iter().map(Family::shell).collect();
        let mut statement = format!("create '{table}', {}", families.join(", "));
        if at == 0 && !splits.is_empty() {
            let keys: Vec<String> = splits.iter().map(|key| format!("'{key}'")).collect();
            statement.push_str(&format!(", SPLITS => [{}]", keys.join(", ")));
        }
        statements.push(statement);
    }
    statements
}

/// Row keys at which profiles are split evenly: rows of numbers begin with their last digits, rows of
/// strings with two hex digits.
fn splits(regions: u32, uid: UidType) -> Vec<String> {
    let regions = u64::from(regions.min(256));
    let (space, width) = match uid {
        UidType::String => (256, 2),
        UidType::U64 if regions <= 10 => (10, 1),
        UidType::U64 if regions <= 100 => (100, 2),
        UidType::U64 => (1_000, 3),
    };
    (1..regions)
        .map(|region| {
            let at = region * space / regions;
            if space == 256 { format!("{at:02x}") } else { format!("{at:0width$}") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_split_evenly() {
        assert_eq!(splits(10, UidType::U64).concat(), "123456789");
        assert_eq!(splits(4, UidType::U64), ["2", "5", "7"]);
        assert_eq!(splits(20, UidType::U64)[..3], ["05", "10", "15"]);
        assert_eq!(splits(4, UidType::String), ["40", "80", "c0"]);
        assert_eq!(splits(1, UidType::U64), [""; 0]);
        let many = splits(1_000, UidType::U64);
        assert!(many.len() == 255 && many.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn statements_are_what_the_shell_takes() {
        let options = HbaseOptions { regions: 3, ..HbaseOptions::default() };
        let statements = statements(&options, UidType::U64);
        assert_eq!(
            statements[0],
            "create 'tagloom_profile', {NAME => 's', VERSIONS => 1, BLOOMFILTER => 'ROW'}, {NAME => \
             't', VERSIONS => 1, BLOOMFILTER => 'ROW'}, SPLITS => ['3', '6']"
        );
        assert_eq!(
            statements[2],
            "create 'tagloom_reject', {NAME => 'r', VERSIONS => 1, BLOOMFILTER => 'ROW', TTL => \
             2592000}"
        );
        assert_eq!(statements.len(), 4);
    }
}
