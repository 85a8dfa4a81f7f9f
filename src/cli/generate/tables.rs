//! The dimension tables: 40 columns about most users, and the cities.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Plan;
use super::draw::Draw;
use super::events::CITIES;
use super::lines::{digits, int, text};

/// The last cities are in no row.
const CITIES_IN_TABLE: usize = 195;
const REGIONS: [&str; 8] =
    ["north", "northeast", "east", "central", "south", "southwest", "northwest", "islands"];

/// How a column is filled.
enum Fill {
    /// Uniform, both ends included.
    Int(i64, i64),
    /// Exponential with this mean, rounded down.
    Exp(f64),
    /// One of these; the first ones more often.
    Text(&'static [&'static str]),
    /// A letter and a number of this many digits, below the bound.
    Code(&'static str, usize, i64),
}

use Fill::{Code, Exp, Int, Text};

/// Name, how it is filled, share of empty cells.
const COLUMNS: [(&str, Fill, f64); 40] = [
    ("ltv_score", Int(0, 1000), 0.0),
    ("credit_score", Int(300, 850), 0.15),
    ("churn_score", Int(0, 1000), 0.0),
    ("risk_score", Int(0, 100), 0.0),
    ("nps", Int(0, 10), 0.6),
    ("income_band", Int(1, 9), 0.1),
    ("family_size", Int(1, 6), 0.1),
    ("age_years", Int(14, 80), 0.05),
    ("tenure_days", Int(0, 3000), 0.0),
    ("app_opens_30d", Exp(12.0), 0.0),
    ("visits_30d", Exp(20.0), 0.0),
    ("searches_30d", Exp(15.0), 0.0),
    ("favourites", Exp(6.0), 0.0),
    ("cart_items", Exp(2.0), 0.0),
    ("follows", Exp(8.0), 0.0),
    ("posts", Exp(1.0), 0.0),
    ("addresses", Exp(2.0), 0.0),
    ("devices", Int(1, 5), 0.0),
    ("vip_points", Exp(3000.0), 0.0),
    ("wallet_cents", Exp(20000.0), 0.0),
    ("coupons_left", Exp(2.0), 0.0),
    ("push_ctr_permille", Int(0, 300), 0.05),
    ("commute_km", Int(0, 60), 0.3),
    ("refund_score", Int(0, 100), 0.0),
    ("car_owner", Int(0, 1), 0.1),
    ("vip_level", Text(&["none", "silver", "gold", "black"]), 0.0),
    ("life_stage", Text(&["student", "single", "couple", "parent", "senior"]), 0.1),
    ("device_brand", Code("b", 1, 8), 0.05),
    ("network", Text(&["wifi", "4g", "5g"]), 0.0),
    ("home_city", Code("c", 3, CITIES as i64), 0.1),
    ("work_city", Code("c", 3, CITIES as i64), 0.4),
    (
        "occupation",
        Text(&[
            "office", "service", "factory", "teacher", "medical", "student", "retired", "driver",
            "owner", "other",
        ]),
        0.2,
    ),
    ("education", Text(&["school", "college", "bachelor", "master", "doctor"]), 0.3),
    ("housing", Text(&["own", "rent", "family", "dorm"]), 0.3),
    ("pet", Text(&["no", "cat", "dog", "other"]), 0.5),
    ("price_segment", Text(&["low", "mid", "high"]), 0.0),
    ("lifecycle", Text(&["new", "active", "dormant", "lost"]), 0.0),
    ("acq_channel", Text(&["ads", "organic", "invite", "offline"]), 0.02),
    ("pref_category", Code("k", 2, 20), 0.1),
    ("pref_slot", Text(&["morning", "noon", "evening", "night"]), 0.1),
];

/// Writes `user_dim.csv`: a row for 95 % of the users. Returns the rows.
pub(super) fn write_users(plan: &Plan, path: &Path) -> io::Result<u64> {
    let mut draw = Draw::new(plan.seed, 20);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let names: Vec<&str> = COLUMNS.iter().map(|c| c.0).collect();
    writeln!(out, "uid,{}", names.join(","))?;
    let (mut rows, mut line) = (0, Vec::new());
    for uid in 1..=u64::from(plan.users) {
        if !draw.chance(0.95) {
            continue;
        }
        line.clear();
        int(&mut line, uid);
        for (_, fill, empty) in &COLUMNS {
            line.push(b',');
            if !draw.chance(*empty) {
                cell(&mut line, fill, &mut draw);
            }
        }
        line.push(b'\n');
        out.write_all(&line)?;
        rows += 1;
    }
    out.flush()?;
    Ok(rows)
}

fn cell(line: &mut Vec<u8>, fill: &Fill, draw: &mut Draw) {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let skewed = |draw: &mut Draw, of: i64| draw.share_of(of, 1.5);
    match fill {
        Int(low, high) => int(line, number(draw.range(*low, high + 1))),
        Exp(mean) => int(line, number(draw.exponential(*mean))),
        Text(words) => {
            let of = i64::try_from(words.len()).unwrap_or(1);
            let at = usize::try_from(skewed(draw, of)).unwrap_or(0);
            text(line, words[at.min(words.len() - 1)]);
        }
        Code(letter, width, of) => {
            let from = i64::from(*width == 1);
            text(line, letter);
            digits(line, number(skewed(draw, *of).min(of - 1) + from), *width);
        }
    }
}

/// Writes `city_dim.csv`. Returns the rows.
pub(super) fn write_cities(plan: &Plan, path: &Path) -> io::Result<u64> {
    let mut draw = Draw::new(plan.seed, 21);
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "city,tier,region,is_coastal")?;
    for city in 0..CITIES_IN_TABLE {
        let tier = (1 + city / 30).min(5);
        let (region, coastal) = (REGIONS[draw.below(8)], u8::from(draw.chance(0.3)));
        writeln!(out, "c{city:03},{tier},{region},{coastal}")?;
    }
    out.flush()?;
    Ok(CITIES_IN_TABLE as u64)
}
