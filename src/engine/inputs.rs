//! What the rules saw of one user: features and dimension columns.
//!
//! In: a user's state, one epoch of each dimension table, an as-of. Out: the input columns of the
//! plan, with one row. Invariant: no clock; nothing is written.

use arrow::array::ArrayRef;

use super::ruleset::Ruleset;
use crate::dimension::Pinned;
use crate::rule::AsOf;
use crate::shard::compute::add_dimension_columns;
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
    as_of: AsOf,
    texts: &Texts,
) -> Vec<ArrayRef> {
    let mut columns = {
        let view = texts.view();
        let mut features = FeatureBatch::new(&ruleset.layout, &ruleset.feature_types);
        features.push(state, as_of, &view);
        features.take(&view)
    };
    add_dimension_columns(ruleset, dimensions, &[uid], &mut columns, |_, _| ());
    columns
}
