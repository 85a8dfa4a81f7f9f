//! `tagloom export`: all profiles as a Parquet or CSV file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBuilder, RecordBatch, StringArray, StringBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clap::Args;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::{Failure, Outcome, desk, open, progress};
use crate::catalog::model::{Domain, UidType};
use crate::catalog::select::{SELECT_HELP, Selection};
use crate::config::Config;
use crate::engine::ruleset::Ruleset;
use crate::serve::local::{ClosedAccounts, Request};
use crate::serve::read::Reader;
use crate::store::{SortedProfiles, Store, Uid};
use crate::user::snapshot::decode_tags;
use crate::write::open::OpenValue;
use crate::write::profile::{Schemas, label_of};

/// Arguments of `tagloom export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tagloom export --out tags.parquet
  tagloom export --out tags.csv --as-of now
  tagloom export --out open.parquet --closed leave-out")]
pub(super) struct ExportArgs {
    /// The file to write: .parquet or .csv
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Compute as of this instant (not before the store's last): ISO 8601, epoch milliseconds, `now`
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<String>,
    #[arg(long, value_name = "WHAT", help = SELECT_HELP)]
    select: Vec<String>,
    /// What to do with closed accounts (`closed:` in catalog.yaml)
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    closed: ClosedAccounts,
}

/// What is exported.
pub(super) struct What<'a> {
    /// An instant to compute everyone for; none: as stored.
    pub(super) as_of: Option<(&'a Reader, i64)>,
    /// Which tags.
    pub(super) selection: &'a Selection,
    /// What becomes of closed accounts.
    pub(super) closed: ClosedAccounts,
}

/// Profiles read from the store at once.
const BATCH_USERS: usize = 8_192;

/// Runs the command.
pub(super) fn run(args: ExportArgs, config: &Config, _json: bool) -> Outcome {
    let bar = progress::users_bar("export", 0);
    let request = Request::Export {
        path: desk::absolute(&args.out)?,
        as_of: args.as_of,
        select: args.select,
        closed: args.closed,
    };
    let done = desk::request(config, request, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

/// Writes all profiles, sorted by uid: `uid`, then one column a tag in catalogue order.
pub(super) fn write(store: &dyn Store, ruleset: &Ruleset, path: &Path) -> Outcome {
    let bar = progress::users_bar("export", 0);
    let selection = Selection::all(&ruleset.catalog).published(&ruleset.catalog);
    let selection = &selection.map_err(Failure::Input)?;
    let what = What { as_of: None, selection, closed: ClosedAccounts::default() };
    let done = write_with(store, ruleset, path, &what, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

/// [`write`] that shows nothing: `progress` is told the users done, of about how many.
pub(super) fn write_with(
    store: &dyn Store,
    ruleset: &Ruleset,
    path: &Path,
    what: &What<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Outcome {
    let mut sink = Sink::create(path, ruleset, what.selection)?;
    let total = store.stats().map_err(open::store_failure)?.profiles_approximate;
    let mut done = 0;
    let schemas = Schemas::default();
    let mut pages = SortedProfiles::new(store, BATCH_USERS).map_err(open::store_failure)?;
    loop {
        let rows = pages.next_page().map_err(open::store_failure)?;
        if rows.is_empty() {
            break;
        }
        done += rows.len() as u64;
        progress(done, total.max(done));
        let mut columns = Columns::new(ruleset);
        if let Some((reader, as_of_ms)) = what.as_of {
            for user in reader.read_rows(&rows, as_of_ms).map_err(desk::read_failure)? {
                if what.closed.lists(user.closed) {
                    columns.push(&user.uid, &user.codes, &user.open, ruleset);
                }
            }
            sink.write(columns.finish(what.selection))?;
            continue;
        }
        for (key, bytes) in &rows {
            let tags = decode_tags(bytes).map_err(Failure::failed)?;
            if !what.closed.lists(tags.head.closed) {
                continue;
            }
            let schema = schemas.get(tags.head.schema, ruleset, store).map_err(Failure::failed)?;
            let uid = Uid::from_key(ruleset.catalog.uid, key).map_err(Failure::failed)?;
            columns.push(&uid, &schema.codes(&tags), &schema.open_values(&tags), ruleset);
        }
        sink.write(columns.finish(what.selection))?;
    }
    sink.close()
}

enum Column {
    Text(StringBuilder),
    Bool(BooleanBuilder),
    Open(DataType, Vec<Option<OpenValue>>),
}

struct Columns {
    uid_numbers: Option<UInt64Builder>,
    uid_texts: Option<StringBuilder>,
    columns: Vec<Column>,
}

impl Columns {
    fn new(ruleset: &Ruleset) -> Self {
        let column = |domain: &Domain| match domain {
            Domain::Closed { bool: true, .. } => Column::Bool(BooleanBuilder::new()),
            Domain::Closed { bool: false, .. } => Column::Text(StringBuilder::new()),
            Domain::Open(data_type) => Column::Open(data_type.clone(), Vec::new()),
        };
        let number = ruleset.catalog.uid == UidType::U64;
        Self {
            uid_numbers: number.then(UInt64Builder::new),
            uid_texts: (!number).then(StringBuilder::new),
            columns: ruleset.catalog.tags.iter().map(|t| column(&t.domain)).collect(),
        }
    }

    fn push(&mut self, uid: &Uid, codes: &[u8], open: &[Option<OpenValue>], ruleset: &Ruleset) {
        match uid {
            Uid::U64(number) => {
                if let Some(uids) = &mut self.uid_numbers {
                    uids.append_value(*number);
                }
            }
            Uid::Str(text) => {
                if let Some(uids) = &mut self.uid_texts {
                    uids.append_value(text);
                }
            }
        }
        for (at, tag) in ruleset.plan.closed_tags().iter().enumerate() {
            let code = codes.get(at).copied().unwrap_or(0);
            let domain = &ruleset.catalog.tags[*tag].domain;
            match &mut self.columns[*tag] {
                Column::Text(builder) => builder.append_option(label_of(domain, code)),
                Column::Bool(builder) => {
                    builder.append_option(label_of(domain, code).map(|l| l == "true"));
                }
                Column::Open(..) => {}
            }
        }
        for (at, tag) in ruleset.plan.open_tags().iter().enumerate() {
            if let Column::Open(_, values) = &mut self.columns[*tag] {
                values.push(open.get(at).cloned().flatten());
            }
        }
    }

    fn finish(self, selection: &Selection) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 1);
        if let Some(mut uids) = self.uid_numbers {
            arrays.push(Arc::new(uids.finish()));
        }
        if let Some(mut uids) = self.uid_texts {
            arrays.push(Arc::new(uids.finish()));
        }
        let columns = self.columns.into_iter().enumerate();
        for (_, column) in columns.filter(|(at, _)| selection.contains(*at)) {
            arrays.push(match column {
                Column::Text(mut builder) => Arc::new(builder.finish()),
                Column::Bool(mut builder) => Arc::new(builder.finish()),
                Column::Open(data_type, values) => crate::write::open::array(&data_type, &values),
            });
        }
        arrays
    }
}

fn schema(ruleset: &Ruleset, selection: &Selection) -> SchemaRef {
    let uid = match ruleset.catalog.uid {
        UidType::U64 => DataType::UInt64,
        UidType::String => DataType::Utf8,
    };
    let mut fields = vec![Field::new("uid", uid, false)];
    fields.extend(selection.tags().map(|at| {
        let t = &ruleset.catalog.tags[at];
        let data_type = match &t.domain {
            Domain::Closed { bool: true, .. } => DataType::Boolean,
            Domain::Closed { bool: false, .. } => DataType::Utf8,
            Domain::Open(data_type) => data_type.clone(),
        };
        Field::new(&t.name, data_type, true)
    }));
    Arc::new(Schema::new(fields))
}

enum Sink {
    Parquet(Box<ArrowWriter<File>>, SchemaRef, PathBuf),
    Csv(Box<arrow::csv::Writer<File>>, SchemaRef, PathBuf),
}

impl Sink {
    fn create(path: &Path, ruleset: &Ruleset, selection: &Selection) -> Result<Self, Failure> {
        let schema = schema(ruleset, selection);
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if !matches!(kind, "parquet" | "csv") {
            return Err(Failure::Input(format!(
                "{}: expected a file name that ends in .parquet or .csv",
                path.display()
            )));
        }
        let file =
            File::create(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
        let path = path.to_owned();
        if kind == "csv" {
            let writer = arrow::csv::WriterBuilder::new().with_header(true).build(file);
            return Ok(Self::Csv(Box::new(writer), with_lists_as_text(&schema), path));
        }
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(Failure::failed)?;
        Ok(Self::Parquet(Box::new(writer), schema, path))
    }

    fn write(&mut self, columns: Vec<ArrayRef>) -> Outcome {
        match self {
            Self::Parquet(writer, schema, path) => {
                let batch =
                    RecordBatch::try_new(Arc::clone(schema), columns).map_err(Failure::failed)?;
                writer.write(&batch).map_err(|e| failed(path, &e))
            }
            Self::Csv(writer, schema, path) => {
                let columns = columns.iter().map(list_as_text).collect();
                let batch =
                    RecordBatch::try_new(Arc::clone(schema), columns).map_err(Failure::failed)?;
                writer.write(&batch).map_err(|e| failed(path, &e))
            }
        }
    }

    fn close(self) -> Outcome {
        match self {
            Self::Parquet(writer, _, path) => {
                writer.close().map(|_| ()).map_err(|e| failed(&path, &e))
            }
            Self::Csv(..) => Ok(()),
        }
    }
}

/// CSV has no lists: they are JSON texts.
fn with_lists_as_text(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::List(_) => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn list_as_text(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::List(_) => {
            let text = |row| OpenValue::at(column, row).map(|list| list.label());
            Arc::new((0..column.len()).map(text).collect::<StringArray>())
        }
        _ => Arc::clone(column),
    }
}

fn failed(path: &Path, error: &impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{}: {error}; is the disk full?", path.display()))
}
