//! First look at a syntax tree: are all names and functions known and allowed here?
//!
//! In: an AST. Out: diagnostics, each at its identifier. Invariant: no types.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    Expr as Ast, Function, FunctionArguments, Ident, Spanned, visit_expressions,
};

use crate::catalog::place::{Diagnostics, Place};

use super::context::{AGGREGATES, CLOCKS, Context};
use super::parse::Source;
use super::{AS_OF, AS_OF_DATE, ScopeKind, nearest};
use crate::rule::days;

/// What names may stand in an expression.
pub(super) struct Names<'a> {
    pub(super) columns: Vec<&'a str>,
    pub(super) kind: ScopeKind,
    pub(super) context: &'a Context,
}

/// Every plain identifier of the tree, in order.
pub(super) fn identifiers(ast: &Ast) -> Vec<Ident> {
    let mut found = Vec::new();
    let flow: ControlFlow<()> = visit_expressions(ast, |e| {
        if let Ast::Identifier(ident) = e {
            found.push(ident.clone());
        }
        ControlFlow::Continue(())
    });
    debug_assert!(flow.is_continue());
    found
}

impl Names<'_> {
    /// False when something was said.
    pub(super) fn check(&self, ast: &Ast, source: &Source<'_>, out: &mut Diagnostics) -> bool {
        let mut good = true;
        let flow = visit_expressions(ast, |e| match self.node(e, source) {
            None => ControlFlow::Continue(()),
            Some(problem) => {
                good = false;
                out.error(problem.place, problem.message, problem.remedy);
                // Names inside a subquery mean other tables: nothing more to say about them.
                if problem.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        });
        good && flow.is_continue()
    }

    fn node(&self, ast: &Ast, source: &Source<'_>) -> Option<Problem> {
        match ast {
            Ast::Identifier(ident) => self.identifier(ident, source.place_of_ident(ident)),
            Ast::CompoundIdentifier(parts) => {
                let name = parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".");
                let joined = name.replace('.', "_");
                let remedy = match nearest(&joined, self.columns.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "names here have no `.` in them".to_owned(),
                };
                Some(Problem::new(source.place_of(ast), format!("unknown name `{name}`"), remedy))
            }
            Ast::Function(function) => self.function(function, source),
            Ast::Subquery(_) | Ast::Exists { .. } | Ast::InSubquery { .. } => {
                let remedy = "a rule reads one user: use a feature or a dimension column";
                let problem =
                    Problem::new(source.place_of(ast), "a query cannot stand here", remedy);
                Some(Problem { stop: true, ..problem })
            }
            Ast::Wildcard(_) | Ast::QualifiedWildcard(..) => {
                Some(Problem::new(source.place_of(ast), "`*` cannot stand here", "name a column"))
            }
            _ => None,
        }
    }

    fn identifier(&self, ident: &Ident, place: Place) -> Option<Problem> {
        let name = ident.value.as_str();
        if self.columns.contains(&name) {
            return None;
        }
        if name == AS_OF || name == AS_OF_DATE {
            return (self.kind == ScopeKind::Row).then(|| Problem::clock(place, name));
        }
        if CLOCKS.contains(&name.to_lowercase().as_str()) {
            return Some(Problem::machine_clock(place, name, self.kind));
        }
        let near = nearest(name, self.columns.iter().copied());
        let remedy = match (near, ident.quote_style) {
            (_, Some('"')) => format!("for text use single quotes: '{name}'"),
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, _) => String::new(),
        };
        Some(Problem::new(place, format!("unknown name `{name}`"), remedy))
    }

    fn function(&self, function: &Function, source: &Source<'_>) -> Option<Problem> {
        let place = source.place(function.name.span());
        let name = function.name.to_string().to_lowercase();
        let name = name.trim_matches('"');
        if function.over.is_some() {
            let remedy = "a rule reads one user; ranks across users come from `tagloom export`";
            return Some(Problem::new(
                place,
                format!("`{name}` is a window function here"),
                remedy,
            ));
        }
        if CLOCKS.contains(&name) {
            return Some(Problem::machine_clock(place, name, self.kind));
        }
        if name == "random" || name == "uuid" || name == "rand" || name == "gen_random_uuid" {
            let message = format!("`{name}` gives another value every time it is asked");
            let remedy = "a rule must give the same answer again; hash the uid upstream instead";
            return Some(Problem::new(place, message, remedy));
        }
        if name == days::NAME && self.kind == ScopeKind::Row {
            return Some(Problem::clock(place, name));
        }
        if name == days::NAME
            && !matches!(&function.args, FunctionArguments::List(l) if l.args.len() == 1)
        {
            let remedy = "days_since(last_bought)";
            return Some(Problem::new(place, "days_since takes one timestamp", remedy));
        }
        let plain = function.filter.is_none() && function.within_group.is_empty();
        if self.context.knows(name) && plain {
            return None;
        }
        if AGGREGATES.contains(&name) || !plain {
            let remedy = match self.kind {
                ScopeKind::Row => {
                    "a row expression sees one event; aggregate in `value:` of a feature"
                }
                ScopeKind::Tag => "name it as a feature under `tags/features/` and use that here",
            };
            let message = format!("`{name}` is an aggregate and cannot stand here");
            return Some(Problem::new(place, message, remedy));
        }
        let known = datafusion_expr::planner::ContextProvider::udf_names(self.context);
        let remedy = nearest(name, known.iter().map(String::as_str))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        Some(Problem::new(place, format!("unknown function `{name}`"), remedy))
    }
}

struct Problem {
    place: Place,
    message: String,
    remedy: String,
    stop: bool,
}

impl Problem {
    fn new(place: Place, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place, message: message.into(), remedy: remedy.into(), stop: false }
    }

    fn clock(place: Place, name: &str) -> Self {
        Self::new(
            place,
            format!("`{name}` has no meaning in a row expression"),
            "an event is decoded once and for good; compare with `as_of` in a tag",
        )
    }

    fn machine_clock(place: Place, name: &str, kind: ScopeKind) -> Self {
        let message = format!("`{name}` reads the machine's clock");
        let date = name.contains("date") || name == "today";
        let remedy = match (kind, date) {
            (ScopeKind::Tag, true) => "use `as_of_date`, the day the result is about",
            (ScopeKind::Tag, false) => {
                "use `as_of` (or `as_of_date`), the instant the result is about"
            }
            (ScopeKind::Row, _) => {
                "a row expression sees one event; compare with `as_of` or `as_of_date` in a tag"
            }
        };
        Self::new(place, message, remedy)
    }
}
