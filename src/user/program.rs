//! Features compiled to steps over rows.
//!
//! In: a state layout and the catalogue's spans. Out: for each stream which cells each row moves, and
//! from which cells each feature is made.
//!
//! A bucket is a range of ages (days before the as-of day) between two neighbouring span borders. A
//! stream with rolling features has a second program, whose ages are hops before the as-of hop; only
//! rows young enough for a rolling span go through it. A stream has the borders of all its features; a partial has cells only for those of its own, so
//! that a count over a lifetime has one. A feature is the merge of neighbouring cells, and an event
//! moves one cell a partial, however many spans look at it. Invariant: no clock, no I/O.

use super::layout::{Partial, PartialKind, StateLayout, StreamLayout, Value, ValueKind};
use crate::catalog::model::Span;

/// No feature of the partial looks at this age.
pub(super) const NO_CELL: u32 = u32::MAX;

/// What a row does to a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Count,
    Sum {
        unsigned: bool,
    },
    Min(ValueKind),
    Max(ValueKind),
    First(ValueKind),
    Last(ValueKind),
    FirstTime,
    LastTime,
    /// Index of the set.
    Distinct(usize),
    /// Values that are ranked by weight or by time, user by user; index of the tiles' entries.
    Ranked(usize),
}

/// One partial's step for one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) op: Op,
    /// Where the partial's part of [`StreamProgram::cell_of`] begins.
    pub(super) table: usize,
    /// First and last values: how far behind the cell of the time that of the key is.
    pub(super) key_cells: usize,
    pub(super) value: Access,
    /// What an event weighs, and whether that is unsigned; no weight: 1.
    pub(super) weight: Option<(Access, bool)>,
}

/// Where a step's value stands in the row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) word: usize,
    pub(super) shift: u32,
    pub(super) mask: u64,
    pub(super) null_word: usize,
    /// The flag's bit; 0 for steps without value.
    pub(super) null_bit: u64,
}

/// A feature as a merge of a partial's cells `lo..hi`, which are the stream's buckets `buckets`.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) feature: usize,
    pub(super) lo: usize,
    pub(super) hi: usize,
    pub(super) buckets: std::ops::Range<usize>,
}

/// A partial's step and features.
#[derive(Debug, Clone)]
pub(super) struct PartialProgram {
    pub(super) step: Step,
    /// Index of the filter that must be true for a row.
    pub(super) filter: Option<usize>,
    pub(super) kind: PartialKind,
    /// The kind of the value, where there is one.
    pub(super) value: Option<ValueKind>,
    /// First cell and number of cells; first and last values have as many again for their keys.
    pub(super) first_cell: usize,
    pub(super) cells: usize,
    /// Distinct values that are kept.
    pub(super) values_max: usize,
    /// Distinct values whose spans all end today: a value counts in its youngest bucket only, and
    /// cells add up. Otherwise there is a cell for each output.
    pub(super) nested: bool,
    /// Sorted by (lo, hi). Empty: no feature counts in the program's unit, and the step has no work.
    pub(super) outputs: Vec<Output>,
}

/// Everything one stream's rows do.
#[derive(Debug, Clone)]
pub(super) struct StreamProgram {
    pub(super) width: usize,
    /// Bucket of each age up to the greatest border.
    pub(super) bucket_of_age: Vec<u8>,
    /// For each age up to the greatest border the next border; after it there is none.
    pub(super) next_border: Vec<u32>,
    pub(super) buckets: usize,
    /// For each partial and bucket the cell, or [`NO_CELL`].
    pub(super) cell_of: Vec<u32>,
    /// Number of filters, and the flag bit of the first.
    pub(super) filters: usize,
    pub(super) first_filter_flag: usize,
    /// Values that are summed; true: unsigned.
    pub(super) summed: Vec<(Access, bool)>,
    /// Values that are compared.
    pub(super) compared: Vec<(Access, ValueKind)>,
    pub(super) partials: Vec<PartialProgram>,
}

/// What ages are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Days,
    Hops,
}

impl Unit {
    /// The ages of a span, from and to (`None`: all others); nothing if it counts in other units.
    fn ages(self, span: Span) -> Option<(u32, Option<u32>)> {
        match (self, span) {
            (Self::Days, Span::Days { days, offset }) => Some((offset, Some(offset + days))),
            (Self::Days, Span::Lifetime) => Some((0, None)),
            (Self::Hops, Span::Rolling { hops }) => Some((0, Some(hops))),
            _ => None,
        }
    }
}

/// Numbers given out while compiling.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    pub(super) cells: usize,
    pub(super) sets: usize,
    pub(super) ranked: usize,
}

/// Ages at which a partial's features begin and end, ascending.
struct Borders {
    unit: Unit,
    ages: Vec<u32>,
    lifetime: bool,
}

impl Borders {
    fn of<'a>(unit: Unit, partials: impl Iterator<Item = &'a Partial>) -> Self {
        let mut borders = Self { unit, ages: Vec::new(), lifetime: false };
        let spans = partials.flat_map(|p| &p.features).map(|(_, span)| *span);
        for (from, to) in spans.filter_map(|span| unit.ages(span)) {
            borders.ages.push(from);
            borders.ages.extend(to);
            borders.lifetime |= to.is_none();
        }
        borders.ages.sort_unstable();
        borders.ages.dedup();
        borders
    }

    fn ranges(&self) -> usize {
        self.ages.len() - usize::from(!self.lifetime && !self.ages.is_empty())
    }

    /// The range an age falls into.
    fn range_of(&self, age: u32) -> Option<usize> {
        let range = self.ages.partition_point(|b| *b <= age).checked_sub(1)?;
        (range < self.ranges()).then_some(range)
    }

    /// The ranges of a span, if it counts in this unit.
    fn of_span(&self, span: Span) -> Option<(usize, usize)> {
        let at = |age: u32| self.ages.partition_point(|b| *b < age);
        let (from, to) = self.unit.ages(span)?;
        Some((at(from), to.map_or(self.ranges(), at)))
    }
}

impl StreamProgram {
    /// Compiles one stream; takes the cells and sets it needs from `sizes`.
    fn new(layout: &StreamLayout, unit: Unit, sizes: &mut Sizes) -> Self {
        let mut borders = Borders::of(unit, layout.partials.iter());
        // The last bucket, of everything before the greatest border, is always there.
        borders.lifetime = true;
        if borders.ages.first() != Some(&0) {
            borders.ages.insert(0, 0);
        }
        let greatest = borders.ages.last().copied().unwrap_or(0);
        let bucket = |age: u32| borders.range_of(age).unwrap_or(0);
        let next = |age: u32| borders.ages.iter().copied().find(|b| *b > age).unwrap_or(greatest);
        let mut program = Self {
            width: layout.width,
            bucket_of_age: (0..=greatest)
                .map(|a| u8::try_from(bucket(a)).unwrap_or(u8::MAX))
                .collect(),
            next_border: (0..greatest).map(next).collect(),
            buckets: borders.ranges(),
            cell_of: Vec::new(),
            filters: layout.filters.len(),
            first_filter_flag: layout.values.len(),
            summed: Vec::new(),
            compared: Vec::new(),
            partials: Vec::new(),
        };
        for partial in &layout.partials {
            program.add(partial, layout, &borders, sizes);
        }
        program
    }

    fn add(
        &mut self,
        partial: &Partial,
        layout: &StreamLayout,
        stream: &Borders,
        sizes: &mut Sizes,
    ) {
        let own = Borders::of(stream.unit, std::iter::once(partial));
        let mut outputs: Vec<Output> = partial
            .features
            .iter()
            .filter_map(|(feature, span)| {
                let (lo, hi) = own.of_span(*span)?;
                let (from, to) = stream.of_span(*span)?;
                Some(Output { feature: *feature, lo, hi, buckets: from..to })
            })
            .collect();
        outputs.sort_by_key(|o| (o.lo, o.hi));
        let nested = outputs.iter().all(|o| o.buckets.start == 0);
        let cells = if partial.kind == PartialKind::CountDistinct && !nested {
            outputs.len()
        } else if matches!(partial.kind, PartialKind::Tally | PartialKind::Recent(_)) {
            0
        } else {
            own.ranges()
        };
        let (first_cell, table) = (sizes.cells, self.cell_of.len());
        self.cell_of.extend(stream.ages.iter().map(|age| {
            let range = own.range_of(*age).map(|r| r.min(cells.saturating_sub(1)) + first_cell);
            range.and_then(|c| u32::try_from(c).ok()).unwrap_or(NO_CELL)
        }));
        let is_pair = matches!(partial.kind, PartialKind::First | PartialKind::Last);
        sizes.cells += if is_pair { 2 * cells } else { cells };
        let value = partial.value.map(|v| &layout.values[v]);
        let op = op_of(partial.kind, value, sizes);
        let access = value.map(access_of).unwrap_or_default();
        let weight = partial.weight.map(|w| &layout.values[w]);
        let weight = weight.map(|w| (access_of(w), w.kind == ValueKind::U64));
        let step = Step { op, table, key_cells: cells, value: access, weight };
        match op {
            _ if outputs.is_empty() => {}
            Op::Sum { unsigned } => add_new(&mut self.summed, (access, unsigned)),
            Op::Min(kind) | Op::Max(kind) => add_new(&mut self.compared, (access, kind)),
            _ => {}
        }
        let (kind, value, filter) = (partial.kind, value.map(|v| v.kind), partial.filter);
        let values_max = partial.values_max;
        self.partials.push(PartialProgram {
            step,
            filter,
            kind,
            value,
            first_cell,
            cells,
            values_max,
            nested,
            outputs,
        });
    }
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn op_of(kind: PartialKind, value: Option<&Value>, sizes: &mut Sizes) -> Op {
    let value_kind = value.map_or(ValueKind::Int, |v| v.kind);
    match kind {
        PartialKind::Count => Op::Count,
        PartialKind::Sum => Op::Sum { unsigned: value_kind == ValueKind::U64 },
        PartialKind::Min => Op::Min(value_kind),
        PartialKind::Max => Op::Max(value_kind),
        PartialKind::First => Op::First(value_kind),
        PartialKind::Last => Op::Last(value_kind),
        PartialKind::FirstTime => Op::FirstTime,
        PartialKind::LastTime => Op::LastTime,
        PartialKind::CountDistinct => {
            sizes.sets += 1;
            Op::Distinct(sizes.sets - 1)
        }
        PartialKind::Tally | PartialKind::Recent(_) => {
            sizes.ranked += 1;
            Op::Ranked(sizes.ranked - 1)
        }
    }
}

fn access_of(value: &Value) -> Access {
    let (null_word, bit) = super::layout::flag_at(value.null_flag);
    Access {
        word: value.word,
        shift: if value.upper { 32 } else { 0 },
        mask: if value.kind.is_half() { 0xffff_ffff } else { u64::MAX },
        null_word,
        null_bit: 1 << bit,
    }
}

/// All programs of a layout.
#[derive(Debug)]
pub(super) struct Programs {
    /// Those over days, by stream, then those over hops.
    pub(super) all: Vec<StreamProgram>,
    /// By stream the index of the program over hops. Empty: no feature is rolling.
    pub(super) rolling: Vec<Option<usize>>,
    /// The cells and sets they need.
    pub(super) sizes: Sizes,
}

/// Compiles all streams' programs.
pub(super) fn compile(layout: &StateLayout) -> Programs {
    let mut sizes = Sizes::default();
    let mut all: Vec<StreamProgram> =
        layout.streams.iter().map(|s| StreamProgram::new(s, Unit::Days, &mut sizes)).collect();
    let mut rolling = Vec::new();
    for (at, stream) in layout.streams.iter().enumerate().filter(|(_, s)| s.rolling_hops > 0) {
        rolling.resize(layout.streams.len(), None);
        rolling[at] = Some(all.len());
        all.push(StreamProgram::new(stream, Unit::Hops, &mut sizes));
    }
    Programs { all, rolling, sizes }
}
