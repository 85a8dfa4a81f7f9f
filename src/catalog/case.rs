//! stub
use super::model::{Case, Catalog};
use super::report::Reports;
use super::tag::Draft;
pub(super) fn read_all(_: &[Draft<'_>], _: &Catalog, _: &mut Reports) -> Vec<Case> {
    Vec::new()
}
