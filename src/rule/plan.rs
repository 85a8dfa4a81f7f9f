//! All tags of a catalogue, compiled into one plan.
//!
//! In: a checked [`Catalog`] and the columns it will be evaluated over. Out: a [`Plan`] whose
//! [`Plan::evaluate`] turns input columns into codes. Invariant: a plan holds no state between
//! batches; that is what [`Scratch`](super::eval::Scratch) is for.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::DFSchema;
use hashbrown::HashMap;

use crate::catalog::model::{Catalog, Domain, Tag, timestamp_type};
use crate::catalog::terms::Validity;

use self::build::{Builder, bounds, inner_type};
use self::leaf::{Cases, LaneSpec, Leaf, Source};
use super::days::DayIndex;
use super::kernels::coded::{Codes, Table};
use super::kernels::lane::LaneKind;
use super::kernels::step::Step;
use super::packed::{CodeBits, PackedCodes};
use super::safe::{NotExecutable, SafeExpr};
use super::sql::{AS_OF, AS_OF_DATE};

mod build;
pub(super) mod leaf;
mod numbers;
mod recognise;

/// Most labels of a closed tag: codes are bytes, and 0 is "no value".
pub const LABELS_MAX: usize = 254;

/// A column that tags read: a feature or a dimension column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputField {
    /// As in expressions.
    pub name: String,
    /// Texts as `Dictionary(Int32, Utf8)`.
    pub data_type: DataType,
    /// Whether it has a rolling span.
    pub rolling: bool,
}

/// Why a catalogue cannot be planned. The catalogue's own checks come first: these are our faults.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A tag reads what is neither an input nor a tag before it.
    #[error("tag `{tag}` reads `{name}`, which is no input and no earlier tag")]
    UnknownColumn {
        /// The tag.
        tag: String,
        /// What it reads.
        name: String,
    },
    /// A closed tag has more labels than codes.
    #[error("tag `{tag}` has {labels} labels; at most {LABELS_MAX} have codes")]
    TooManyLabels {
        /// The tag.
        tag: String,
        /// How many.
        labels: usize,
    },
    /// Two inputs share a name.
    #[error("the inputs cannot be told apart: {0}")]
    Inputs(String),
    /// DataFusion refuses the expression.
    #[error("tag `{tag}`: {source}")]
    NotExecutable {
        /// The tag.
        tag: String,
        /// Why.
        source: NotExecutable,
    },
}

/// How a closed tag is computed without DataFusion.
#[derive(Debug)]
pub(super) enum Program {
    /// A step function of one lane; `narrow` where the lane is.
    Step { lane: usize, narrow: Option<Step<i32>>, wide: Step<i64> },
    /// A table over the texts of an input.
    Table { input: usize, table: usize },
    /// The first condition that is true.
    Cases(Cases),
}

/// Where a tag's values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Position among the closed tags.
    Closed(usize),
    /// Position among the open tags.
    Open(usize),
}

/// One tag, compiled.
#[derive(Debug)]
pub(super) struct PlannedTag {
    pub(super) place: Place,
    /// Closed tags only.
    pub(super) codes: Option<Codes>,
    pub(super) labels: Vec<String>,
    pub(super) data_type: DataType,
    pub(super) program: Option<Program>,
    /// Leaves of the program, for which masks are computed.
    pub(super) leaves: Vec<usize>,
    pub(super) safe: SafeExpr,
    pub(super) schema: Arc<Schema>,
    /// The columns of `schema`.
    pub(super) reads: Vec<Source>,
    /// Outside of it the tag has no value.
    pub(super) valid: Validity,
}

/// Tags that read only tags of earlier stages.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) tags: Vec<usize>,
    /// Leaves that the stage's programs use.
    pub(super) leaves: Vec<usize>,
}

/// A compiled catalogue. Shared between threads; all state of an evaluation is in its scratch.
#[derive(Debug)]
pub struct Plan {
    pub(super) inputs: Vec<InputField>,
    pub(super) tags: Vec<PlannedTag>,
    pub(super) closed: Vec<usize>,
    pub(super) open: Vec<usize>,
    pub(super) stages: Vec<Stage>,
    pub(super) lanes: Vec<LaneSpec>,
    pub(super) leaves: Vec<Leaf>,
    /// Leaves that multiply.
    pub(super) scaled: Vec<usize>,
    /// Per input.
    pub(super) tables: Vec<Vec<Table>>,
    /// Per input: a kernel asks whether it has a value.
    pub(super) validity: Vec<bool>,
    pub(super) unbounded: Vec<usize>,
    /// Tags that may change in any hop.
    pub(super) every_hop: Vec<usize>,
    /// Instants at which a tag's validity begins or ends, ascending.
    pub(super) edges_ms: Vec<i64>,
    pub(super) days: DayIndex,
    pub(super) timestamp: DataType,
    pub(super) packing: PackedCodes,
}

impl Plan {
    /// Compiles all tags over `inputs`.
    pub fn compile(catalog: &Catalog, inputs: &[InputField]) -> Result<Self, PlanError> {
        let timestamp = timestamp_type(&catalog.zone);
        let mut names: HashMap<&str, Source> =
            HashMap::from([(AS_OF, Source::AsOf), (AS_OF_DATE, Source::AsOfDate)]);
        let mut fields = vec![
            Field::new(AS_OF, timestamp.clone(), true),
            Field::new(AS_OF_DATE, DataType::Date32, true),
        ];
        for (at, input) in inputs.iter().enumerate() {
            names.insert(&input.name, Source::Input(at));
            fields.push(Field::new(&input.name, inner_type(&input.data_type), true));
        }
        for (at, tag) in catalog.tags.iter().enumerate() {
            names.insert(&tag.name, Source::Tag(at));
            fields.push(Field::new(&tag.name, tag.expr.data_type.clone(), true));
        }
        let schema = DFSchema::try_from(Schema::new(fields.clone()))
            .map_err(|e| PlanError::Inputs(e.strip_backtrace()))?;
        let mut builder = Builder::new(catalog, inputs, names, schema);
        let mut tags = compile_tags(catalog, &mut builder, &fields)?;
        let stages = stages(catalog, &tags);
        let unbounded = (0..tags.len())
            .filter(|t| {
                let reads = &tags[*t].reads;
                let time = reads.contains(&Source::AsOf) || reads.contains(&Source::AsOfDate);
                time && tags[*t].program.is_none()
            })
            .collect();
        let every_hop = every_hop(catalog, inputs, &tags);
        let (mut lanes, leaves) = (builder.lanes, builder.leaves);
        let tables = builder.tables;
        let validity = shape_lanes(&mut tags, &mut lanes, &leaves, inputs.len());
        let valid = tags.iter().map(|t: &PlannedTag| t.valid);
        let edges: BTreeSet<i64> = valid.flat_map(|v| v.edges_ms()).collect();
        let bits: Vec<CodeBits> = catalog.tags.iter().filter_map(code_bits).collect();
        let place = |p: fn(Place) -> bool| (0..tags.len()).filter(|t| p(tags[*t].place)).collect();
        Ok(Self {
            inputs: inputs.to_vec(),
            closed: place(|p| matches!(p, Place::Closed(_))),
            open: place(|p| matches!(p, Place::Open(_))),
            tags,
            stages,
            lanes,
            scaled: (0..leaves.len())
                .filter(|l| matches!(leaves[*l], Leaf::Scaled { .. }))
                .collect(),
            leaves,
            tables,
            validity,
            unbounded,
            every_hop,
            edges_ms: edges.into_iter().collect(),
            days: DayIndex::new(&catalog.zone),
            timestamp,
            packing: PackedCodes::new(&bits),
        })
    }

    /// The columns to evaluate over, in order.
    pub fn inputs(&self) -> &[InputField] {
        &self.inputs
    }

    /// Catalogue tag index of each column of codes.
    pub fn closed_tags(&self) -> &[usize] {
        &self.closed
    }

    /// How the codes of one user are packed.
    pub fn packing(&self) -> &PackedCodes {
        &self.packing
    }

    /// Catalogue tag index of each open array.
    pub fn open_tags(&self) -> &[usize] {
        &self.open
    }

    /// Tags that may change on any day: the plan cannot say when time alone changes them.
    pub fn unbounded_in_time(&self) -> &[usize] {
        &self.unbounded
    }

    /// Tags that may change in any hop of five minutes, for the same reason.
    pub fn unbounded_in_hops(&self) -> &[usize] {
        &self.every_hop
    }

    /// The first instant after this one at which a tag's validity begins or ends.
    pub fn next_edge_ms(&self, as_of_ms: i64) -> Option<i64> {
        let passed = self.edges_ms.partition_point(|edge| *edge <= as_of_ms);
        self.edges_ms.get(passed).copied()
    }

    /// Tags that DataFusion evaluates, because no kernel fits them.
    pub fn without_kernel(&self) -> Vec<usize> {
        (0..self.tags.len()).filter(|t| self.tags[*t].program.is_none()).collect()
    }
}

/// Tags that, be it through other tags, read a rolling feature and the instant where it is not bounded.
fn every_hop(catalog: &Catalog, inputs: &[InputField], tags: &[PlannedTag]) -> Vec<usize> {
    // By tag: reads the instant, reads a rolling feature.
    let mut reads = vec![(false, false); tags.len()];
    for tag in &catalog.tag_order {
        reads[*tag] = tags[*tag].reads.iter().fold((false, false), |have, source| match source {
            Source::AsOf => (have.0 || tags[*tag].program.is_none(), have.1),
            Source::Input(input) => (have.0, have.1 || inputs[*input].rolling),
            Source::Tag(t) => (have.0 || reads[*t].0, have.1 || reads[*t].1),
            Source::AsOfDate => have,
        });
    }
    (0..tags.len()).filter(|t| reads[*t] == (true, true)).collect()
}

/// Bits that a closed tag's codes need: one code a label, and 0 for "no value".
pub fn code_bits(tag: &Tag) -> Option<CodeBits> {
    match &tag.domain {
        Domain::Closed { labels, .. } => {
            let greatest = u8::try_from(labels.len()).unwrap_or(u8::MAX);
            Some(CodeBits::of_greatest(greatest))
        }
        Domain::Open(_) => None,
    }
}

fn compile_tags(
    catalog: &Catalog,
    builder: &mut Builder<'_>,
    fields: &[Field],
) -> Result<Vec<PlannedTag>, PlanError> {
    let (mut closed, mut open) = (0, 0);
    let mut tags = Vec::with_capacity(catalog.tags.len());
    for tag in &catalog.tags {
        let (place, codes, labels) = match &tag.domain {
            Domain::Closed { labels, bool } => {
                closed += 1;
                let codes = codes_of(tag, labels, *bool)?;
                (Place::Closed(closed - 1), Some(codes), labels.clone())
            }
            Domain::Open(_) => {
                open += 1;
                (Place::Open(open - 1), None, Vec::new())
            }
        };
        let mut columns: Vec<&str> =
            tag.expr.expr.column_refs().into_iter().map(|c| c.name.as_str()).collect();
        columns.sort_unstable();
        columns.dedup();
        let mut reads = Vec::new();
        let mut read_fields = Vec::new();
        for name in columns {
            let known = builder.source(name).zip(fields.iter().find(|f| f.name() == name));
            let Some((source, field)) = known else {
                return Err(PlanError::UnknownColumn {
                    tag: tag.name.clone(),
                    name: name.to_owned(),
                });
            };
            reads.push(source);
            read_fields.push(field.clone());
        }
        let schema = Arc::new(Schema::new(read_fields));
        let safe = SafeExpr::new(&tag.expr, &schema)
            .map_err(|source| PlanError::NotExecutable { tag: tag.name.clone(), source })?;
        let program = codes.as_ref().and_then(|codes| builder.program(&tag.expr.expr, codes));
        let leaves = match &program {
            Some(Program::Cases(cases)) => cases.leaves(),
            _ => Vec::new(),
        };
        let data_type = tag.expr.data_type.clone();
        tags.push(PlannedTag {
            place,
            codes,
            labels,
            data_type,
            program,
            leaves,
            safe,
            schema,
            reads,
            valid: tag.terms.valid,
        });
    }
    Ok(tags)
}

fn codes_of(tag: &Tag, labels: &[String], bool: bool) -> Result<Codes, PlanError> {
    if bool {
        return Ok(Codes::Bool(1, 2));
    }
    let code = |at: usize| u8::try_from(at + 1).ok().filter(|_| labels.len() <= LABELS_MAX);
    let codes: Option<HashMap<String, u8>> =
        labels.iter().enumerate().map(|(at, l)| Some((l.clone(), code(at)?))).collect();
    let too_many = || PlanError::TooManyLabels { tag: tag.name.clone(), labels: labels.len() };
    Ok(Codes::Labels(Arc::new(codes.ok_or_else(too_many)?)))
}

fn stages(catalog: &Catalog, tags: &[PlannedTag]) -> Vec<Stage> {
    let mut stage_of = vec![0_usize; tags.len()];
    let mut stages: Vec<Stage> = vec![Stage::default()];
    for tag in &catalog.tag_order {
        let reads = tags[*tag].reads.iter();
        let after = reads.filter_map(|r| match r {
            Source::Tag(t) => Some(stage_of[*t] + 1),
            _ => None,
        });
        let at = after.max().unwrap_or(0);
        stage_of[*tag] = at;
        while stages.len() <= at {
            stages.push(Stage::default());
        }
        stages[at].tags.push(*tag);
        for leaf in &tags[*tag].leaves {
            if !stages[at].leaves.contains(leaf) {
                stages[at].leaves.push(*leaf);
            }
        }
    }
    stages
}

/// Decides in which forms each lane is needed, and the ages at which something changes.
fn shape_lanes(
    tags: &mut [PlannedTag],
    lanes: &mut [LaneSpec],
    leaves: &[Leaf],
    inputs: usize,
) -> Vec<bool> {
    let mut validity = vec![false; inputs];
    let mut constants: Vec<Vec<i64>> = vec![Vec::new(); lanes.len()];
    let mut ranged = vec![false; lanes.len()];
    for tag in tags.iter() {
        if let Some(Program::Step { lane, wide, .. }) = &tag.program {
            ranged[*lane] = true;
            constants[*lane].extend(&wide.cuts);
        }
        for leaf in &tag.leaves {
            match &leaves[*leaf] {
                Leaf::Range { lane, lo, hi, .. } => {
                    ranged[*lane] = true;
                    constants[*lane].extend(bounds(*lo, *hi));
                }
                Leaf::Valid { input, .. } => validity[*input] = true,
                Leaf::Plain { x, y, .. } => {
                    lanes[*x].forms.wide = true;
                    lanes[*y].forms.wide = true;
                }
                Leaf::Scaled { x, y, .. } => {
                    lanes[*x].forms.float = true;
                    lanes[*y].forms.float = true;
                }
                Leaf::Table { .. } | Leaf::Tag { .. } => {}
            }
        }
    }
    for ((lane, constants), ranged) in lanes.iter_mut().zip(&mut constants).zip(ranged) {
        let inside = |c: &i64| *c > i64::from(i32::MIN) && *c < i64::from(i32::MAX);
        lane.forms.narrow = ranged && constants.iter().all(inside);
        lane.forms.wide |= ranged && !lane.forms.narrow;
        if ranged || lane.forms.wide || lane.forms.float {
            validity[lane.input] = true;
        }
        if lane.kind == LaneKind::Age {
            constants.sort_unstable();
            constants.dedup();
            lane.boundaries = std::mem::take(constants);
        }
    }
    for tag in tags {
        if let Some(Program::Step { lane, narrow, wide }) = &mut tag.program
            && lanes[*lane].forms.narrow
        {
            let cuts: Result<Vec<i32>, _> = wide.cuts.iter().map(|c| i32::try_from(*c)).collect();
            *narrow = cuts.ok().map(|cuts| Step {
                cuts,
                codes: wide.codes.clone(),
                null_code: wide.null_code,
            });
        }
    }
    validity
}
