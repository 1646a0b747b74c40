//! Operations on single elements of rows that no fold takes: one launch.

use crate::args::{MOST_MAP_OPS, MOST_MAP_OTHERS, MapArgs, MapOp, MapRows, map_elements, move_blocks};
use crate::launches::{Args, Launch, Maker, StepLaunches, narrow_columns};
use crate::places::Place;
use crate::spec::{ADD_CODE, KernelSpec, MOVE_THREADS, dtype_code, element_code};
use levelfold::DType;
use levelfold::encoder::{ElementOp, Kernel, RowOp, dtype_after};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::ViewId;
use levelfold::plan::{Encode, Plan};

/// The entry that does the operations of a step: wide, where a type among them is f64.
pub(crate) fn entry(plan: &Plan, encode: &Encode) -> &'static str {
    if is_wide(plan, encode) { "lf_map_wide" } else { "lf_map" }
}

fn is_wide(plan: &Plan, encode: &Encode) -> bool {
    let wide = |dtype: DType| dtype == DType::F64;
    wide(plan.buffer_of(*encode.encoding.kernel.rows()).dtype)
        || encode.encoding.ops.iter().any(|op| matches!(op, RowOp::Cast(dtype) if wide(*dtype)))
}

impl From<&Place> for MapRows {
    fn from(place: &Place) -> Self {
        MapRows { address: place.address, row_stride: place.row_stride, column_stride: place.column_stride }
    }
}

impl Maker<'_> {
    /// The launch of a step that operates on rows.
    pub(crate) fn map(&self, encode: &Encode) -> Result<StepLaunches> {
        let Kernel::Map { rows: source } = encode.encoding.kernel else {
            return Err(Error::new(ErrorCode::Internal, "a step was loaded that has no kernel"));
        };
        let (source, target) = (self.place(source), self.place(encode.write));
        let rows = self.plan.buffer_of(encode.write).rows;
        let mut args = MapArgs {
            source: source.into(),
            target: target.into(),
            rows,
            units: 0,
            elements: 1,
            source_type: dtype_code(source.dtype),
            op_count: 0,
            ops: [MapOp::default(); MOST_MAP_OPS],
            others: [MapRows::default(); MOST_MAP_OTHERS],
        };
        let mut sides = vec![target, source];
        let mut dtype = source.dtype;
        for (op, to) in encode.encoding.ops.iter().zip(&mut args.ops) {
            let (kind, number) = match (op, ElementOp::of(op)) {
                (_, Some(element)) => {
                    dtype = dtype_after(&[element], dtype);
                    let (kind, number) = element_code(element);
                    (kind, number.to_bits())
                }
                (RowOp::Add(other), None) => {
                    let (other, number) = (self.place(*other), sides.len() - 2);
                    args.others[number] = other.into();
                    sides.push(other);
                    (ADD_CODE, crate::wide(number))
                }
                (op, None) => return Err(no_kernel(op)),
            };
            *to = MapOp { number, kind, dtype: dtype_code(dtype) };
            args.op_count += 1;
        }
        let at_once = map_elements(is_wide(self.plan, encode));
        if sides.iter().all(|side| has_units(side, at_once)) {
            args.elements = at_once;
        }
        let units = source.features / u64::from(args.elements);
        args.units = narrow_columns(units)?;
        let bytes = |sides: &[&Place]| sides.iter().map(|side| rows.saturating_mul(side.row_bytes())).fold(0, u64::saturating_add);
        let mut made = StepLaunches { launches: Vec::new(), read: bytes(&sides[1..]), written: bytes(&sides[..1]) };
        let blocks = move_blocks(rows, units);
        if blocks > 0 {
            let function = self.kernels.get(&KernelSpec::Maps, entry(self.plan, encode))?;
            made.launches.push(Launch { function, blocks, threads: MOVE_THREADS, shared: 0, args: Args::Map(Box::new(args)) });
        }
        Ok(made)
    }
}

fn no_kernel(op: &RowOp<ViewId>) -> Error {
    Error::new(ErrorCode::Internal, format!("a step was loaded with {}, which has no kernel", op.name()))
}

/// Whether so many neighbouring elements can be read or written at once.
fn has_units(side: &Place, elements: u32) -> bool {
    let bytes = u64::from(elements).saturating_mul(side.dtype.size_u64());
    side.is_dense()
        && side.features.is_multiple_of(u64::from(elements))
        && side.address.is_multiple_of(bytes)
        && side.row_stride.unsigned_abs().is_multiple_of(bytes)
}
