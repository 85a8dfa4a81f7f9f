use arrow::array::{
    AsArray, Decimal128Array, DictionaryArray, Int64Array, TimestampMillisecondArray,
};
use arrow::datatypes::{Decimal128Type, Int32Type};
use proptest::prelude::*;

use super::*;
use crate::catalog::load_from;
use crate::catalog::model::Domain;
use crate::rule::InputField;

const DAY_MS: i64 = 86_400_000;
/// Noon of a day, in UTC.
const AS_OF: AsOf = AsOf { ms: 20_000 * DAY_MS + DAY_MS / 2, day: 20_000 };

const STREAM: &str = "
stream: consume
from: {file: consume.jsonl}
columns: {amount: 'decimal(18,2)', city: string, at: timestamp(ms), user: u64}
uid: user
time: at
";
const FEATURES: &str = "
feature: spend
stream: consume
value: sum(amount)
window: 30d
---
feature: buys
stream: consume
value: count()
window: 30d
---
feature: last_bought
stream: consume
value: last_time()
window: lifetime
---
feature: city
stream: consume
value: last(city)
window: lifetime
";

struct Rules {
    catalog: Catalog,
    inputs: Vec<InputField>,
    /// All tags.
    plan: Plan,
}

impl Rules {
    fn new(rules: &str) -> Self {
        let texts = [
            ("catalog.yaml", "name: test\nuid: u64\ntimezone: UTC\n"),
            ("streams/consume.yaml", STREAM),
            ("features/all.yaml", FEATURES),
            ("rules/all.yaml", rules),
        ];
        let texts = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).to_vec();
        let catalog = load_from("tags", texts).unwrap_or_else(|e| panic!("{e}")).catalog;
        let coded = |t: &DataType| match t {
            DataType::Utf8 => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            other => other.clone(),
        };
        let inputs: Vec<InputField> = catalog
            .features
            .iter()
            .map(|f| InputField {
                name: f.name.clone(),
                data_type: coded(&f.data_type),
                rolling: false,
            })
            .collect();
        let plan = Plan::compile(&catalog, &inputs).unwrap();
        Self { catalog, inputs, plan }
    }

    /// The code that the whole catalogue gives a tag when one input has another value.
    fn code_with(&self, tag: usize, user: &User, input: usize, value: &ScalarValue) -> u8 {
        let mut inputs = user.inputs();
        inputs[input] = cast(&value.to_array().unwrap(), inputs[input].data_type()).unwrap();
        self.plan.packing().get(self.plan.evaluate(&inputs, 1, AS_OF).codes_of(0), tag)
    }

    /// `input sign value label`, for each thing that would change tag `name` of a user.
    fn flips(&self, name: &str, user: &User) -> Vec<String> {
        let tag = self.catalog.tags.iter().position(|t| t.name == name).unwrap();
        let inputs = user.inputs();
        let focus = Focus::new(&self.catalog, &self.inputs, tag).unwrap();
        let prober = Prober::new(&focus, &inputs, AS_OF).unwrap();
        let Domain::Closed { labels, .. } = &self.catalog.tags[tag].domain else { panic!() };
        let label =
            |code: u8| usize::from(code).checked_sub(1).map_or("-", |at| labels[at].as_str());
        let (columns, _) = closure(&self.catalog, tag);
        let mut out = Vec::new();
        for name in columns {
            let input = self.catalog.features.iter().position(|f| f.name == name).unwrap();
            let lowest = (name == "buys").then_some(0);
            let flip = prober.flip(input, lowest, name == "last_bought");
            // What is said holds when it is done.
            let holds = |value: &ScalarValue, code: u8| {
                assert_eq!(self.code_with(tag, user, input, value), code, "{name} {value}");
                (shown(value), label(code))
            };
            for (crossing, sign) in [(&flip.rise, '+'), (&flip.fall, '-')] {
                if let Some(c) = crossing {
                    let (value, becomes) = holds(&c.value, c.code);
                    assert_eq!(self.code_with(tag, user, input, &c.last), prober.present());
                    out.push(format!("{name} {sign} {value} {becomes}"));
                }
            }
            for (value, code) in &flip.others {
                let (value, becomes) = holds(value, *code);
                out.push(format!("{name} = {value} {becomes}"));
            }
            out.extend(flip.null.map(|code| format!("{name} = NULL {}", label(code))));
        }
        out
    }
}

fn shown(value: &ScalarValue) -> String {
    match value {
        ScalarValue::TimestampMillisecond(Some(ms), _) => {
            format!("{}d", AS_OF.day - i32::try_from(ms.div_euclid(DAY_MS)).unwrap())
        }
        other => other.to_string(),
    }
}

#[derive(Default)]
struct User {
    cents: Option<i128>,
    buys: i64,
    /// Days before the as-of instant.
    bought: Option<i64>,
    city: Option<&'static str>,
}

impl User {
    fn inputs(&self) -> Vec<ArrayRef> {
        let spend = Decimal128Array::from(vec![self.cents]);
        let at = TimestampMillisecondArray::from(vec![self.bought.map(|d| AS_OF.ms - d * DAY_MS)]);
        vec![
            Arc::new(spend.with_precision_and_scale(38, 2).unwrap()),
            Arc::new(Int64Array::from(vec![self.buys])),
            Arc::new(at.with_timezone("UTC")),
            Arc::new([self.city].into_iter().collect::<DictionaryArray<Int32Type>>()),
        ]
    }
}

fn check(rules: &str, user: &User, expect: &[&str]) {
    assert_eq!(Rules::new(rules).flips("t", user), expect);
}

const BANDS: &str = "tag: t\nbands: {of: spend, cuts: [50, 200, 1000], labels: [low, mid, high, top], missing: none}";

#[test]
fn a_band_says_the_cuts_on_both_sides() {
    let user = User { cents: Some(12_050), ..User::default() };
    check(BANDS, &user, &["spend + 200.00 high", "spend - 49.99 low", "spend = NULL none"]);
}

#[test]
fn what_has_no_value_says_what_values_would_give() {
    let flips = Rules::new(BANDS).flips("t", &User::default());
    let labels: Vec<&str> = flips.iter().map(|f| f.rsplit(' ').next().unwrap()).collect();
    assert_eq!(labels, ["low", "mid", "high", "top"]);
    assert!(flips[2].starts_with("spend = 200.00 "), "{flips:?}");
}

#[test]
fn a_ratio_says_the_exact_cut() {
    let rules =
        "tag: t\nratio: {num: spend, den: buys, cuts: [10], labels: [low, high], default: none}";
    let user = User { cents: Some(2_999), buys: 3, ..User::default() };
    let expect = ["buys - 2 high", "buys = NULL none", "spend + 30.00 high", "spend = NULL none"];
    check(rules, &user, &expect);
    // No literal of the rule is near these.
    let user = User { cents: Some(123_456), buys: 700, ..User::default() };
    let expect =
        ["buys - 123 high", "buys = NULL none", "spend + 7000.00 high", "spend = NULL none"];
    check(rules, &user, &expect);
}

#[test]
fn recency_counts_days() {
    let rules = "tag: t\nrecency: {of: last_bought, cuts: [7, 30], labels: [hot, warm, cold]}";
    let user = User { bought: Some(10), ..User::default() };
    check(
        rules,
        &user,
        &["last_bought + 6d hot", "last_bought - 30d cold", "last_bought = NULL -"],
    );
}

#[test]
fn a_flag_says_each_input_through_other_tags_too() {
    let rules = "
tag: t
expr: rich AND days_since(last_bought) BETWEEN 14 AND 60 AND city = 'York'
---
tag: rich
expr: spend > 200
";
    let user =
        User { cents: Some(20_001), bought: Some(20), city: Some("York"), ..User::default() };
    let expect = [
        "city = NULL -",
        "last_bought + 13d false",
        "last_bought - 61d false",
        "last_bought = NULL -",
        "spend - 200.00 false",
        "spend = NULL -",
    ];
    check(rules, &user, &expect);
    let user =
        User { cents: Some(20_001), bought: Some(20), city: Some("Bath"), ..User::default() };
    check(rules, &user, &["city = York true", "city = NULL -"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_nearest_cuts_are_found(
        cuts in proptest::collection::btree_set(-3_000_000i128..3_000_000, 1..9),
        cents in -4_000_000i128..4_000_000,
    ) {
        let cuts: Vec<i128> = cuts.into_iter().collect();
        let text = |cents: &i128| {
            let sign = if *cents < 0 { "-" } else { "" };
            format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
        };
        let shown: Vec<String> = cuts.iter().map(text).collect();
        let labels: Vec<String> = (0..=cuts.len()).map(|at| format!("l{at}")).collect();
        let rules = Rules::new(&format!(
            "tag: t\nbands: {{of: spend, cuts: [{}], labels: [{}]}}",
            shown.join(", "),
            labels.join(", ")
        ));
        let inputs = User { cents: Some(cents), ..User::default() }.inputs();
        let focus = Focus::new(&rules.catalog, &rules.inputs, 0).unwrap();
        let prober = Prober::new(&focus, &inputs, AS_OF).unwrap();
        let flip = prober.flip(0, None, false);
        let at = |c: &Crossing| {
            let array = c.value.to_array().unwrap();
            array.as_primitive::<Decimal128Type>().value(0)
        };
        let above = cuts.iter().copied().find(|cut| *cut > cents);
        let below = cuts.iter().copied().rev().find(|cut| *cut <= cents).map(|cut| cut - 1);
        prop_assert_eq!(flip.rise.as_ref().map(at), above);
        prop_assert_eq!(flip.fall.as_ref().map(at), below);
    }
}
