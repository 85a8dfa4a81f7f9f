//! What DataFusion's SQL planner may ask for: functions, types, options.
//!
//! In: the business timezone and whether rules about users are compiled. Out: a `ContextProvider`.
//! Invariant: no function that is volatile or reads a clock, no tables, no variables.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, not_impl_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::{
    AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF,
};
use datafusion_functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion_sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, TimezoneInfo};

use crate::catalog::model::timestamp_type;
use crate::clock::Zone;

use crate::rule::days;

/// Functions that would give another value when asked again: known, so that the message can say so.
pub(super) const CLOCKS: &[&str] = &[
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "today",
];

/// Functions about the engine's insides or a file's, not about users.
const HIDDEN: &[&str] = &[
    "version",
    "input_file_name",
    "file_row_index",
    "arrow_metadata",
    "with_metadata",
    "arrow_field",
    "random",
    "uuid",
];

/// Aggregates people may reach for where a feature is needed.
pub(super) const AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "mean",
    "median",
    "first",
    "last",
    "first_time",
    "last_time",
    "first_value",
    "last_value",
    "mode",
    "top_k",
    "recent",
    "stddev",
    "array_agg",
    "string_agg",
    "row_number",
    "rank",
    "lag",
    "lead",
];

/// Functions over lists that make lists of any length out of nothing, or what tags cannot be.
const UNBOUNDED: &[&str] = &[
    "range",
    "generate_series",
    "array_repeat",
    "array_resize",
    "map",
    "map_entries",
    "map_extract",
    "map_keys",
    "map_values",
];

/// Functions over lists, which only features have.
static LIST_FUNCTIONS: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let all = datafusion_functions_nested::all_default_nested_functions();
    by_name(all.into_iter().filter(|f| !UNBOUNDED.contains(&f.name())))
});

static FUNCTIONS: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let all = datafusion_functions::all_default_functions();
    by_name(all.into_iter().filter(|function| {
        let volatile = function.signature().volatility == Volatility::Volatile;
        let named = |list: &[&str]| list.contains(&function.name());
        !(volatile || named(CLOCKS) || named(HIDDEN))
    }))
});

fn by_name(functions: impl Iterator<Item = Arc<ScalarUDF>>) -> BTreeMap<String, Arc<ScalarUDF>> {
    let mut named = BTreeMap::new();
    for function in functions {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(|a| &**a))
        {
            named.insert(name.to_owned(), function.clone());
        }
    }
    named
}

/// The planner's view of a scope.
pub(super) struct Context {
    options: ConfigOptions,
    planners: Vec<Arc<dyn ExprPlanner>>,
    types: Arc<dyn TypePlanner>,
    days_since: Option<Arc<ScalarUDF>>,
}

impl Context {
    /// `about_users`: `days_since` and lists are known.
    pub(super) fn new(zone: &Zone, about_users: bool) -> Self {
        let mut options = ConfigOptions::default();
        options.execution.time_zone = Some(zone.name().to_owned());
        let types: Arc<dyn TypePlanner> = Arc::new(Types { timestamp: timestamp_type(zone) });
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
        ];
        if about_users {
            planners.push(Arc::new(NestedFunctionPlanner));
            planners.push(Arc::new(FieldAccessPlanner));
        }
        let days_since = about_users.then(|| days::days_since(zone));
        Self { options, planners, types, days_since }
    }

    /// Whether a function (lower case) may be called.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.get_function_meta(name).is_some()
    }
}

impl ContextProvider for Context {
    fn get_table_source(&self, _: TableReference) -> Result<Arc<dyn TableSource>> {
        not_impl_err!("tables in rules")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(self.types.clone())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        if name == days::NAME {
            return self.days_since.clone();
        }
        let of_lists = || LIST_FUNCTIONS.get(name).filter(|_| self.days_since.is_some());
        FUNCTIONS.get(name).or_else(of_lists).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        let own = self.days_since.iter().map(|f| f.name().to_owned());
        let of_lists = LIST_FUNCTIONS.keys().filter(|_| self.days_since.is_some());
        FUNCTIONS.keys().chain(of_lists).cloned().chain(own).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The catalogue's type names mean the same in `CAST(x AS ...)` as in `columns:`: `int` has 64 bits,
/// `float` too, an instant is `Timestamp(ms, zone)`.
#[derive(Debug)]
struct Types {
    timestamp: DataType,
}

impl TypePlanner for Types {
    fn plan_type_field(&self, sql: &SqlType) -> Result<Option<FieldRef>> {
        let data_type = match sql {
            SqlType::Int(_)
            | SqlType::Integer(_)
            | SqlType::Int64
            | SqlType::SmallInt(_)
            | SqlType::TinyInt(_) => DataType::Int64,
            SqlType::UInt64 | SqlType::IntUnsigned(_) | SqlType::IntegerUnsigned(_) => {
                DataType::UInt64
            }
            SqlType::Float(ExactNumberInfo::None)
            | SqlType::Real
            | SqlType::Float4
            | SqlType::Float64 => DataType::Float64,
            SqlType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithTimeZone)
            | SqlType::Timestamp(None, TimezoneInfo::Tz) => self.timestamp.clone(),
            SqlType::Character(_) | SqlType::CharacterVarying(_) => DataType::Utf8,
            SqlType::Custom(name, _) => match name.to_string().to_lowercase().as_str() {
                "u64" => DataType::UInt64,
                "i64" => DataType::Int64,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
