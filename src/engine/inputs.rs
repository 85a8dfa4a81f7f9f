//! What the rules saw of one user: features and dimension columns.
//!
//! In: a user's state, one epoch of each dimension table, an as-of. Out: the input columns of the
//! plan, with one row. Invariant: no clock; nothing is written.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, new_null_array};

use super::ruleset::Ruleset;
use crate::catalog::model::DimensionKey;
use crate::clock::Day;
use crate::dimension::{KeyColumn, Pinned};
use crate::store::Uid;
use crate::user::features::FeatureBatch;
use crate::user::state::UserState;
use crate::user::texts::Texts;

/// The columns of [`crate::rule::Plan::inputs`] for one user.
pub fn of_user(
    ruleset: &Ruleset,
    dimensions: &Pinned,
    uid: &Uid,
    state: &UserState,
    as_of_day: Day,
    texts: &Texts,
) -> Vec<ArrayRef> {
    let mut columns = {
        let view = texts.view();
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        features.push(state, as_of_day, &view);
        features.take(&view)
    };
    let number = if let Uid::U64(number) = uid { [*number] } else { [0] };
    let text: ArrayRef = Arc::new(StringArray::from(vec![uid.to_string()]));
    for (at, dimension) in ruleset.catalog.dimensions.iter().enumerate() {
        let key = match (dimension.key, uid) {
            (DimensionKey::Uid, Uid::U64(_)) => KeyColumn::Numbers(&number),
            (DimensionKey::Uid, Uid::Str(_)) => KeyColumn::Array(&text),
            (DimensionKey::Feature(feature), _) => KeyColumn::Array(&columns[feature]),
            (DimensionKey::Column { dimension, column }, _) => {
                KeyColumn::Array(&columns[ruleset.dimension_inputs[dimension] + column])
            }
        };
        match dimensions.enrich(at, key) {
            Ok(enriched) => columns.extend(enriched.columns),
            // Checked when the catalogue was compiled: a key column has the table's key type.
            Err(_) => columns.extend(
                dimension
                    .columns
                    .iter()
                    .map(|c| new_null_array(&c.kind.data_type(&ruleset.catalog.zone), 1)),
            ),
        }
    }
    columns
}
