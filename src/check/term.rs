//! What a value is, whatever its layout and place. Equal terms have equal ids.

use crate::dtype::DType;
use crate::encoder::{ElementOp, Encoding, Kernel, RowOp};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::LevelGraph;
use crate::ids::TableId;
use crate::plan::{Plan, TableForm, TableSource};
use crate::reducer::{OnEmpty, Reducer};
use std::collections::HashMap;
use std::sync::Arc;

/// A term, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TermId(usize);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Term {
    Input(Arc<str>),
    Gather {
        ids: TermId,
        table: TermId,
    },
    Fold {
        rows: TermId,
        /// The content of the segments.
        table: u128,
        name: Arc<str>,
        reducer: Reducer,
        weights: Option<TermId>,
        /// The bits of an empty segment's value, where there is an empty segment.
        on_empty: Option<u64>,
        dtype: DType,
    },
    Concat(Vec<TermId>),
    Spread {
        rows: TermId,
        /// The number of the table's content.
        table: usize,
    },
    /// A kernel, its tables by the numbers of their contents.
    ///
    /// Its type is that of the rows that it takes.
    Kernel(Kernel<TermId>, DType),
    /// An operation on the rows of another term, its tables by the numbers of their contents.
    Row(RowOp<TermId>, TermId),
}

/// How a fold reduces.
#[derive(Clone)]
pub(super) struct How {
    pub(super) reducer: Reducer,
    pub(super) on_empty: OnEmpty,
    /// Of what it makes.
    pub(super) dtype: DType,
    /// Of the rows that it takes.
    pub(super) from: DType,
}

/// A table, as far as a term needs it.
pub(super) struct TableFacts {
    hash: u128,
    is_partition: bool,
    empty: u64,
    composed: Option<(TableId, TableId)>,
}

/// Where tables are found.
pub(super) trait Tables {
    fn facts(&self, table: TableId) -> TableFacts;
}

pub(super) struct GraphTables<'a>(pub(super) &'a LevelGraph);

impl Tables for GraphTables<'_> {
    fn facts(&self, table: TableId) -> TableFacts {
        let table = self.0.table(table);
        TableFacts {
            hash: table.segments.hash(),
            is_partition: table.segments.is_partition(),
            empty: table.segments.empty_count(),
            composed: table.composed,
        }
    }
}

pub(super) struct PlanTables<'a>(pub(super) &'a Plan);

impl Tables for PlanTables<'_> {
    fn facts(&self, table: TableId) -> TableFacts {
        let table = self.0.table(table);
        let composed = match table.source {
            TableSource::Bound => None,
            TableSource::Compose { lower, upper } => Some((lower, upper)),
        };
        TableFacts { hash: table.hash.0, is_partition: table.form == TableForm::Offsets, empty: table.empty, composed }
    }
}

/// Every term met so far.
#[derive(Default)]
pub(super) struct Terms {
    terms: Vec<Term>,
    ids: HashMap<Term, TermId>,
    /// A number for each table content, in the order met: the names of descriptions.
    tables: Vec<u128>,
}

impl Terms {
    fn intern(&mut self, term: Term) -> TermId {
        if let Some(id) = self.ids.get(&term) {
            return *id;
        }
        let id = TermId(self.terms.len());
        self.terms.push(term.clone());
        self.ids.insert(term, id);
        id
    }

    /// Rows without features: there is nothing in them to differ by, whatever they were made of.
    pub(super) fn nothing(&mut self) -> TermId {
        self.intern(Term::Concat(Vec::new()))
    }

    pub(super) fn input(&mut self, name: &Arc<str>, features: u64) -> TermId {
        if features == 0 { self.nothing() } else { self.intern(Term::Input(name.clone())) }
    }

    pub(super) fn gather(&mut self, ids: TermId, table: TermId) -> TermId {
        if table == self.nothing() { table } else { self.intern(Term::Gather { ids, table }) }
    }

    /// Parts side by side; a part that is a concat itself counts as its parts.
    pub(super) fn concat(&mut self, parts: &[TermId]) -> TermId {
        let flat: Vec<TermId> = parts
            .iter()
            .flat_map(|part| match &self.terms[part.0] {
                Term::Concat(inner) => inner.clone(),
                Term::Input(_) | Term::Gather { .. } | Term::Fold { .. } | Term::Spread { .. } | Term::Kernel(..) | Term::Row(..) => {
                    vec![*part]
                }
            })
            .collect();
        match flat[..] {
            [only] => only,
            [..] => self.intern(Term::Concat(flat)),
        }
    }

    /// A fold by a table; one that was composed is the two folds that it stands for.
    pub(super) fn fold(&mut self, rows: TermId, tables: &dyn Tables, table: TableId, how: How, weights: Option<TermId>) -> Result<TermId> {
        if rows == self.nothing() {
            return Ok(rows);
        }
        let facts = tables.facts(table);
        if let Some((lower, upper)) = facts.composed {
            let collapses = weights.is_none()
                && match how.reducer {
                    Reducer::Max | Reducer::Min => true,
                    // Nothing but brackets may change: the level between is of the type that its rows are added up in.
                    Reducer::Sum | Reducer::Prod => how.from.accumulator() == how.dtype,
                    Reducer::Mean
                    | Reducer::Var { .. }
                    | Reducer::Std { .. }
                    | Reducer::LogSumExp
                    | Reducer::SoftMax
                    | Reducer::Quantile(_)
                    | Reducer::L1
                    | Reducer::L2
                    | Reducer::First
                    | Reducer::Last
                    | Reducer::Count
                    | Reducer::ArgMax
                    | Reducer::ArgMin
                    | Reducer::Custom(_)
                    | Reducer::Named(_) => false,
                };
            if !collapses || tables.facts(lower).empty > 0 {
                return Err(Error::new(
                    ErrorCode::PlanWrong,
                    format!("{} by the composed table {table} is not {} by its two parts", how.reducer, how.reducer),
                ));
            }
            let inner = self.fold(rows, tables, lower, how.clone(), None)?;
            return self.fold(inner, tables, upper, How { from: how.dtype, ..how }, None);
        }
        if let Some(term) = self.hoisted(rows, tables, table, &how, weights)? {
            return Ok(term);
        }
        let number = self.table_number(&facts);
        let on_empty = (facts.empty > 0).then(|| {
            let value = how.on_empty.value().unwrap_or(f64::NAN);
            if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
        });
        let name = format!("segments {number}").into();
        Ok(self.intern(Term::Fold { rows, table: facts.hash, name, reducer: how.reducer, weights, on_empty, dtype: how.dtype }))
    }

    /// A sum or mean of matrix products, as the product of the sum or mean: both are one term where the pass that exchanges them may.
    fn hoisted(&mut self, rows: TermId, tables: &dyn Tables, table: TableId, how: &How, weights: Option<TermId>) -> Result<Option<TermId>> {
        let Term::Kernel(Kernel::MatMul { rows: below, weight, bias }, dtype) = self.terms[rows.0] else { return Ok(None) };
        let exchanges = how.reducer == Reducer::Mean || (how.reducer == Reducer::Sum && bias.is_none());
        if !exchanges || how.dtype != dtype || dtype != dtype.accumulator() || tables.facts(table).empty > 0 || below == self.nothing() {
            return Ok(None);
        }
        let rows = self.fold(below, tables, table, how.clone(), weights)?;
        Ok(Some(self.intern(Term::Kernel(Kernel::MatMul { rows, weight, bias }, dtype))))
    }

    fn table_number(&mut self, facts: &TableFacts) -> usize {
        self.tables.iter().position(|hash| *hash == facts.hash).unwrap_or_else(|| {
            self.tables.push(facts.hash);
            self.tables.len() - 1
        })
    }

    /// A row for each occurrence in a segment; the rows themselves where the segments partition them in order.
    pub(super) fn spread(&mut self, rows: TermId, tables: &dyn Tables, table: TableId) -> TermId {
        let facts = tables.facts(table);
        if rows == self.nothing() || facts.is_partition {
            return rows;
        }
        let table = self.table_number(&facts);
        self.intern(Term::Spread { rows, table })
    }

    /// What an encoding makes: each operation behind its kernel is a term of its own, so that fused and unfused ones are equal.
    pub(super) fn encode(&mut self, encoding: &Encoding<TermId>, tables: &dyn Tables, features: u64, dtype: DType) -> TermId {
        if features == 0 {
            return self.nothing();
        }
        let numbered = encoding.try_map(|term| Ok(*term), |table| Ok(TableId::new(self.table_number(&tables.facts(table)))));
        let Encoding { kernel, ops } = match numbered {
            Ok(numbered) => numbered,
            Err(never) => {
                let never: std::convert::Infallible = never;
                match never {}
            }
        };
        let rows = match kernel {
            Kernel::Map { rows } => rows,
            kernel @ (Kernel::MatMul { .. } | Kernel::Attend { .. } | Kernel::Convolve { .. }) => self.intern(Term::Kernel(kernel, dtype)),
        };
        ops.into_iter().fold(rows, |rows, op| self.intern(Term::Row(op, rows)))
    }

    /// Operations on the elements of rows: the terms of operations on rows.
    pub(super) fn elements(&mut self, rows: TermId, ops: &[ElementOp]) -> TermId {
        if rows == self.nothing() {
            return rows;
        }
        ops.iter().fold(rows, |rows, op| self.intern(Term::Row(op.row_op(), rows)))
    }

    /// A term in words.
    pub(super) fn describe(&self, term: TermId) -> String {
        match &self.terms[term.0] {
            Term::Input(name) => name.to_string(),
            Term::Gather { ids, table } => format!("{}[{}]", self.describe(*table), self.describe(*ids)),
            Term::Concat(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.describe(*part)).collect();
                format!("({})", parts.join(" | "))
            }
            Term::Spread { rows, table } => format!("{} spread over segments {table}", self.describe(*rows)),
            Term::Kernel(kernel, _) => {
                let operands: Vec<String> = kernel.operands().into_iter().map(|operand| self.describe(*operand)).collect();
                format!("{}({}){}", kernel.name(), operands.join(", "), kernel.details())
            }
            Term::Row(op, rows) => {
                let operands: Vec<String> = [rows].into_iter().chain(op.operands()).map(|operand| self.describe(*operand)).collect();
                format!("{}({}){}", op.name(), operands.join(", "), op.details())
            }
            Term::Fold { rows, name, reducer, weights, on_empty, dtype, .. } => {
                let weights = weights.map_or(String::new(), |weights| format!(" weighted by {}", self.describe(weights)));
                let empty = on_empty.map_or(String::new(), |bits| format!(", empty = {:?}", f64::from_bits(bits)));
                format!("{reducer} of {} over {name}{weights} as {dtype}{empty}", self.describe(*rows))
            }
        }
    }
}
