//! A third backend, as a stranger would write one: two traits and one line of conformance.
//!
//! It runs a plan step by step, each step as a plan of its own on the reference, and keeps the arena itself: every arena buffer is a piece
//! of memory that it owns and binds from step to step. So it also shows that a plan says everything about its memory that a backend of
//! another kind (a device, another process) needs to know.

use levelfold::backend::{Backend, Bindings, Executable, RunReport, TableSet, Target};
use levelfold::plan::{Place, Plan, Step, Totals};
use levelfold::{Result, Segments};
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;
