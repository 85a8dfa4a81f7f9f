//! `--select`: which tags are meant, and what they depend on.

use tagloom::catalog::load_from;
use tagloom::catalog::model::Catalog;
use tagloom::catalog::select::{Selection, tag_of};

const RULES: &str = "
tag: spend_low
doc: d
owner: growth
group: value
expr: spend_7d < 10
---
tag: spend_high
doc: d
owner: growth
group: value
was: spend_top
expr: spend_30d > 100
---
tag: shelf_top
doc: d
owner: shop
group: value
expr: product_shelf = 'top'
---
tag: both
doc: d
owner: shop
group: mixed
expr: spend_high AND shelf_top
";

fn catalog() -> Catalog {
    let files = [
        ("catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\n"),
        (
            "streams/s.yaml",
            "stream: consume\nfrom: {file: a.jsonl}\ncolumns: {sku: string, price: 'decimal(9,2)', \
             at: timestamp(ms), user: u64}\nuid: user\ntime: at\n",
        ),
        (
            "features/f.yaml",
            "feature: spend_{span}\nstream: consume\nvalue: sum(price)\nwindow: '{span}'\nmatrix: \
             {span: [7d, 30d]}\n---\nfeature: last_sku\nstream: consume\nvalue: last(sku)\nwindow: lifetime\n",
        ),
        ("dimensions/d.yaml", "dimension: product\nkey: last_sku\ncolumns: {shelf: string}\n"),
        ("rules/r.yaml", RULES),
    ];
    let files = files.map(|(p, t)| (p.to_owned(), t.to_owned())).to_vec();
    load_from("tags", files).unwrap_or_else(|e| panic!("{e}")).catalog
}

fn select(terms: &[&str]) -> Result<String, String> {
    let catalog = catalog();
    let terms: Vec<String> = terms.iter().map(|t| (*t).to_owned()).collect();
    let selection = Selection::parse(&terms, &catalog).map_err(|e| e.to_string())?;
    let names: Vec<&str> = selection.tags().map(|t| catalog.tags[t].name.as_str()).collect();
    Ok(names.join(" "))
}

#[track_caller]
fn check(terms: &[&str], expect: &str) {
    match select(terms) {
        Ok(names) => assert_eq!(names, expect, "{terms:?}"),
        Err(error) => assert!(error.contains(expect), "{terms:?}: {error}"),
    }
}

#[test]
fn terms_select_tags() {
    check(&[], "spend_low spend_high shelf_top both");
    check(&["owner:growth"], "spend_low spend_high");
    check(&["group:value"], "spend_low spend_high shelf_top");
    check(&["owner:shop,group:value"], "shelf_top");
    check(&["spend_low", "both"], "spend_low both");
    check(&["spend_*"], "spend_low spend_high");
    check(&["+both"], "spend_high shelf_top both");
}

#[test]
fn what_selects_nothing_says_what_would() {
    check(
        &["owner:grwth"],
        "--select owner:grwth: no tag has this owner; did you mean `owner:growth`?",
    );
    check(&["group:zzz"], "there are `mixed` and `value`");
    check(&["spend_hgh"], "unknown tag `spend_hgh`; did you mean `spend_high`?");
    check(&["+nothing_like_it"], "`tagloom check --list` shows all tags");
    check(&["colour:red"], "use owner: or group:");
    check(&["x*"], "no tag's name begins with `x`");
    check(&["owner:growth,group:mixed"], "no tag is all of these");
    check(&[""], "unknown tag ``");
    let renamed = tag_of("spend_top", &catalog()).unwrap_err();
    assert!(renamed.contains("it is now named `spend_high`"), "{renamed}");
}

#[test]
fn a_tag_reaches_through_tags_and_dimension_keys() {
    let catalog = catalog();
    let selection = Selection::parse(&["both".to_owned()], &catalog).unwrap();
    let reach = selection.reach(&catalog);
    let features: Vec<&str> =
        reach.features.iter().map(|f| catalog.features[*f].name.as_str()).collect();
    assert_eq!(features, ["spend_30d", "last_sku"]);
    assert_eq!((reach.tags.len(), reach.dimensions.len(), reach.streams.len()), (3, 1, 1));
}
