//! What a batch finds.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::Int32Type;

use super::*;

#[test]
fn users_are_looked_up_with_every_type() {
    let seven = "10 leeds 12.50 2026-03-01T12:00:00Z true 0.5 1990-02-03 18446744073709551615";
    let eight = "-3 york -0.01 2026-07-01T12:00:00+01:00 false -2.0 1960-01-01 1";
    let none = "- - - - - - - -";
    for strategy in STRATEGIES {
        let (world, dimensions) = World::loaded(strategy);
        let uids = [8, 7, 1, 9, 7];
        let got =
            check(&dimensions, 0, KeyColumn::Numbers(&uids), &[eight, seven, none, none, seven]);
        assert_eq!((got.absent_rows, got.missing.len(), got.stale), (1, 0, false));
        for (column, array) in world.catalog.dimensions[0].columns.iter().zip(&got.columns) {
            let expect = match &column.kind {
                ColumnType::String => "Dictionary(Int32, Utf8)".to_owned(),
                kind => kind.data_type(&world.catalog.zone).to_string(),
            };
            assert_eq!(array.data_type().to_string(), expect);
        }
        check(&dimensions, 0, KeyColumn::Numbers(&[]), &[]);
    }
}

#[test]
fn keys_may_be_features_or_columns_of_another_dimension() {
    for strategy in STRATEGIES {
        let (_world, dimensions) = World::loaded(strategy);
        let plain: ArrayRef =
            Arc::new(StringArray::from(vec![Some("york"), None, Some("paris"), Some("")]));
        check(&dimensions, 1, KeyColumn::Array(&plain), &["3 -", "- -", "- -", "- -"]);
        let words = vec![Some("leeds"), None, Some("leeds"), Some("london")];
        let dictionary: DictionaryArray<Int32Type> = words.into_iter().collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        let expect = ["2 north", "- -", "2 north", "1 south"];
        check(&dimensions, 1, KeyColumn::Array(&dictionary), &expect);
        // Fewer rows than dictionary values.
        let one = dictionary.slice(3, 1);
        check(&dimensions, 1, KeyColumn::Array(&one), &["1 south"]);
        let users = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7, 9, 8])).unwrap();
        let home = &users.columns[1];
        check(&dimensions, 2, KeyColumn::Array(home), &["2 north", "- -", "3 -"]);
    }
}

#[test]
fn a_column_that_names_other_rows_of_its_table_is_not_taken_for_the_key() {
    let mut world = World::new(Strategy::Preload);
    let parent = column("city_part_of", "part_of", ColumnType::String);
    let key = DimensionKey::Column { dimension: 0, column: 0 };
    let region = column("whole_region", "region", ColumnType::String);
    world.catalog.dimensions = vec![
        dimension("city", "city", DimensionKey::Feature(0), vec![parent]),
        dimension("whole", "city", key, vec![region]),
    ];
    world.load("city", "place,part_of,region\ncamden,london,north\nlondon,,south\n");
    let dimensions = world.open();
    let camden: ArrayRef = Arc::new(StringArray::from(vec!["camden"]));
    let whole = check(&dimensions, 0, KeyColumn::Array(&camden), &["london"]);
    check(&dimensions, 1, KeyColumn::Array(&whole.columns[0]), &["south"]);
}

#[test]
fn integers_find_each_other_whatever_their_width_and_sign() {
    for strategy in STRATEGIES {
        let (_world, dimensions) = World::loaded(strategy);
        let signed: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(-7), None]));
        let got = dimensions.pin().enrich(0, KeyColumn::Array(&signed)).unwrap();
        assert_eq!(shown(&got.columns[0]), ["10", "-", "-"]);
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![8, u64::MAX]));
        let got = dimensions.pin().enrich(0, KeyColumn::Array(&unsigned)).unwrap();
        assert_eq!(shown(&got.columns[0]), ["-3", "-"]);
        let wrong: ArrayRef = Arc::new(StringArray::from(vec!["7"]));
        let error = dimensions.pin().enrich(0, KeyColumn::Array(&wrong)).unwrap_err();
        assert_eq!(error.to_string(), "dimension `user` cannot be looked up by a column of Utf8");
    }
}

#[test]
fn tables_that_were_never_loaded_are_null_and_named() {
    for strategy in STRATEGIES {
        let world = World::new(strategy);
        world.load("city", CITIES);
        let dimensions = world.open();
        assert_eq!(dimensions.missing_tables(), ["user"]);
        let got = check(&dimensions, 0, KeyColumn::Numbers(&[7]), &["- - - - - - - -"]);
        assert_eq!((got.missing.len(), got.absent_rows), (0, 1));
    }
}

#[test]
fn columns_the_epoch_lacks_are_null_and_named() {
    for strategy in STRATEGIES {
        let (mut world, _) = World::loaded(strategy);
        let city = &mut world.catalog.dimensions[1].columns;
        city[0].kind = ColumnType::Float;
        city.push(column("city_coast", "coast", ColumnType::String));
        world.catalog.dimensions[2].columns.remove(0);
        let dimensions = world.open();
        assert_eq!(
            dimensions.missing_columns(),
            [
                "city.tier was loaded as int, the catalogue says float: load the table again",
                "city.coast was not asked for when the table was loaded: load it again"
            ]
        );
        let key: ArrayRef = Arc::new(StringArray::from(vec!["leeds"]));
        check(&dimensions, 1, KeyColumn::Array(&key), &["- north -"]);
    }
}

#[test]
fn dimensions_that_cannot_share_a_table_are_refused() {
    let mut keys = catalog(Strategy::Preload);
    keys.dimensions[2].key = DimensionKey::Uid;
    let error = TableSpec::of(&keys, "city").unwrap_err().to_string();
    assert!(error.contains("looked up by string in one dimension and by u64 in `home`"), "{error}");
    let mut types = catalog(Strategy::Preload);
    types.dimensions[2].columns[0].kind = ColumnType::Float;
    let error = TableSpec::of(&types, "city").unwrap_err().to_string();
    assert!(error.contains("column `tier` of table `city` is int in one dimension"), "{error}");
    let error = TableSpec::of(&types, "town").unwrap_err().to_string();
    assert!(
        error.contains("no dimension reads a table `town`; the catalogue's tables are city, user")
    );
}
