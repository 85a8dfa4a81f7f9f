//! What conditions are made of: tests of one or two columns, shared by all tags that ask the same.
//!
//! In: nothing (plain data). Out: leaves and the trees over them. Invariant: a leaf is true or not
//! true; NULL is "not true", and a rule's NOT has already been moved into the leaves.

use crate::rule::kernels::lane::{Forms, LaneKind};
use crate::rule::kernels::mask::Compare;

/// Where a name of a rule is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::rule) enum Source {
    /// Index into the plan's inputs.
    Input(usize),
    /// Index into the catalogue's tags.
    Tag(usize),
    /// The instant the result is about.
    AsOf,
    /// Its local date.
    AsOfDate,
}

/// A column as whole numbers.
#[derive(Debug, Clone)]
pub(in crate::rule) struct LaneSpec {
    pub(in crate::rule) input: usize,
    pub(in crate::rule) kind: LaneKind,
    pub(in crate::rule) forms: Forms,
    /// For ages, ascending: the ages at which something changes.
    pub(in crate::rule) boundaries: Vec<i64>,
}

/// A test.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::rule) enum Leaf {
    /// `lo <= x <= hi` (or its opposite) where x has a value.
    Range { lane: usize, lo: Option<i64>, hi: Option<i64>, negated: bool },
    /// Whether an input has a value (or has none).
    Valid { input: usize, negated: bool },
    /// Two lanes of one type.
    Plain { x: usize, op: Compare, y: usize },
    /// `x * a <op> y * b`, as floats where that is exact.
    Scaled { x: usize, a: u64, op: Compare, y: usize, b: u64 },
    /// A table over the texts of an input.
    Table { input: usize, table: usize },
    /// A table over the codes of a tag: bit `code % 64` of word `code / 64`.
    Tag { tag: usize, codes: [u64; 4] },
}

/// A condition over leaves, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rule) enum Cond {
    Const(bool),
    Leaf(usize),
    Not(Box<Cond>),
    And(Vec<Cond>),
    Or(Vec<Cond>),
}

impl Cond {
    pub(in crate::rule) fn and(parts: Vec<Cond>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Const(false) => return Self::Const(false),
                Self::Const(true) => {}
                Self::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            0 => Self::Const(true),
            1 => flat.remove(0),
            _ => Self::And(flat),
        }
    }

    pub(in crate::rule) fn or(parts: Vec<Cond>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Const(true) => return Self::Const(true),
                Self::Const(false) => {}
                Self::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            0 => Self::Const(false),
            1 => flat.remove(0),
            _ => Self::Or(flat),
        }
    }

    pub(in crate::rule) fn not(self) -> Self {
        match self {
            Self::Const(v) => Self::Const(!v),
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    pub(in crate::rule) fn leaves(&self, found: &mut Vec<usize>) {
        match self {
            Self::Const(_) => {}
            Self::Leaf(leaf) => {
                if !found.contains(leaf) {
                    found.push(*leaf);
                }
            }
            Self::Not(inner) => inner.leaves(found),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|p| p.leaves(found)),
        }
    }

    /// The value when each leaf has the value `truth` gives it.
    pub(in crate::rule) fn decide(&self, truth: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Const(v) => *v,
            Self::Leaf(leaf) => truth(*leaf),
            Self::Not(inner) => !inner.decide(truth),
            Self::And(parts) => parts.iter().all(|p| p.decide(truth)),
            Self::Or(parts) => parts.iter().any(|p| p.decide(truth)),
        }
    }
}

/// The code of the first condition that is true, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rule) struct Cases {
    pub(in crate::rule) whens: Vec<(Cond, u8)>,
    pub(in crate::rule) otherwise: u8,
}

impl Cases {
    pub(in crate::rule) fn leaves(&self) -> Vec<usize> {
        let mut found = Vec::new();
        self.whens.iter().for_each(|(cond, _)| cond.leaves(&mut found));
        found
    }

    pub(in crate::rule) fn decide(&self, truth: &impl Fn(usize) -> bool) -> u8 {
        let first = self.whens.iter().find(|(cond, _)| cond.decide(truth));
        first.map_or(self.otherwise, |(_, code)| *code)
    }
}
