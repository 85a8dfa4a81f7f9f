//! Which columns of Debezium's envelopes are decimals as bytes, and their digits behind the point.
//!
//! In: the schema that stands beside a payload. Out: the scale of each such column. Schemas repeat
//! with every record: each is read once.
//! Invariant: no I/O; at most [`SCHEMAS_MAX`] schemas are remembered.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::Deserialize;

use crate::event::column::Column;
use crate::user::layout::hash64;

/// Schemas that are remembered; beyond them all are forgotten, and read again.
const SCHEMAS_MAX: usize = 64;

/// Kafka Connect's type of exact numbers.
const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";

/// Digits behind the point that a decimal of a database may have (MySQL 30, Oracle 127).
const SCALE_MAX: u32 = 128;

type ByName = Arc<[(String, u32)]>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scales {
    /// The schema for which columns are set; empty: none.
    set: String,
    known: HashMap<u64, ByName>,
}

#[derive(Debug, Deserialize)]
struct Field {
    #[serde(default)]
    field: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

impl Field {
    fn scale(&self) -> Option<(String, u32)> {
        let scale = self.parameters.get("scale").filter(|_| self.name.as_deref() == Some(DECIMAL));
        let scale = scale?.parse().ok().filter(|scale| *scale <= SCALE_MAX)?;
        Some((self.field.clone(), scale))
    }
}

impl Scales {
    /// Tells the columns of rows how this schema writes them. Fails where it is none.
    pub(super) fn set(
        &mut self,
        schema: Option<&str>,
        columns: &mut [Column],
    ) -> Result<(), serde_json::Error> {
        let schema = schema.unwrap_or_default();
        if self.set == schema {
            return Ok(());
        }
        let scales = if schema.is_empty() { Arc::default() } else { self.read(schema)? };
        schema.clone_into(&mut self.set);
        for column in columns.iter_mut().filter(|column| !column.envelope) {
            let scale = scales.iter().find(|(name, _)| *name == column.from);
            column.bytes_scale = scale.map(|(_, scale)| *scale);
        }
        Ok(())
    }

    fn read(&mut self, schema: &str) -> Result<ByName, serde_json::Error> {
        let hash = hash64(schema.as_bytes());
        if let Some(known) = self.known.get(&hash) {
            return Ok(Arc::clone(known));
        }
        let envelope: Field = serde_json::from_str(schema)?;
        let row = envelope.fields.iter().find(|field| field.field == "after");
        let scales = row.into_iter().flat_map(|row| row.fields.iter().filter_map(Field::scale));
        let scales: ByName = scales.collect();
        if self.known.len() == SCHEMAS_MAX {
            self.known.clear();
        }
        self.known.insert(hash, Arc::clone(&scales));
        Ok(scales)
    }
}
