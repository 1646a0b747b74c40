//! Strides inside and outside of their buffers, and overlaps against brute force.

use super::*;
use half::bf16;

fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn layouts_reach_the_same_elements() {
    let data: Vec<f32> = (0u8..6).map(f32::from).collect();
    let rows = TensorView::from_slice(&data, [3, 2]).unwrap();
    assert_eq!((rows.get::<f32>(2, 1), rows.get::<f32>(0, 1)), (5.0, 1.0));
    let columns = TensorView::from_feature_major(&data, [3, 2]).unwrap();
    assert_eq!((columns.get::<f32>(2, 1), columns.get::<f32>(0, 1)), (5.0, 3.0));
    let backwards = TensorView::strided(&data, Layout { offset: 4, shape: [3, 2], strides: [-2, 1] }).unwrap();
    assert_eq!((backwards.get::<f32>(0, 0), backwards.get::<f32>(2, 1)), (4.0, 1.0));
    let broadcast = TensorView::strided(&data, Layout { offset: 2, shape: [1000, 2], strides: [0, 1] }).unwrap();
    assert_eq!((broadcast.get::<f32>(999, 0), broadcast.get::<f32>(0, 1)), (2.0, 3.0));
    let column = TensorView::from_column(&data);
    assert_eq!((column.shape(), column.get::<f32>(4, 0)), ([6, 1], 4.0));
    assert!(column.elements::<f64>().is_none());
}

#[test]
fn arrays_are_borrowed_as_they_are() {
    let array = ndarray::Array2::from_shape_fn((4, 3), |(row, column)| (row * 10 + column) as f64);
    for view in [array.view(), array.t(), array.slice(ndarray::s![..;-1, 1..]), array.slice(ndarray::s![1..;2, ..;-1])] {
        let tensor = TensorView::from(view);
        assert_eq!(tensor.shape(), [view.nrows(), view.ncols()]);
        for ((row, column), value) in view.indexed_iter() {
            assert_eq!(tensor.get::<f64>(row, column).to_bits(), value.to_bits());
        }
    }
    let empty = ndarray::Array2::<f32>::zeros((0, 5));
    assert_eq!(TensorView::from(empty.view()).shape(), [0, 5]);
}

#[test]
fn bad_shapes_and_strides_are_told() {
    let data = [0f32; 6];
    insta::assert_snapshot!(refused(TensorView::from_slice(&data, [2, 2])), @"6 elements do not fill shape [2, 2], which has 4 [shape]");
    insta::assert_snapshot!(refused(TensorView::from_slice(&data, [usize::MAX, 2])), @"shape [18446744073709551615, 2] has more elements than memory has addresses [overflow]");
    let of = |offset, shape, strides| refused(TensorView::strided(&data, Layout { offset, shape, strides }));
    insta::assert_snapshot!(of(0, [3, 2], [3, 1]), @"shape [3, 2] with strides [3, 1] from offset 0 reaches element 7, but the buffer has 6; check the row count and the strides, which count elements [strides-leave-buffer]");
    insta::assert_snapshot!(of(1, [3, 2], [-2, 1]), @"shape [3, 2] with strides [-2, 1] from offset 1 starts 3 elements before the buffer [strides-leave-buffer]");
    insta::assert_snapshot!(of(0, [usize::MAX, 2], [isize::MAX, 1]), @"shape [18446744073709551615, 2] with strides [9223372036854775807, 1] reaches past any address [strides-leave-buffer]");
    let words = [0u64; 2];
    let bytes: &[u8] = bytemuck::must_cast_slice(&words);
    insta::assert_snapshot!(refused(TensorView::from_bytes(&bytes[..7], DType::F32, Layout::row_major([1, 1]))), @"7 bytes are not a whole number of f32 elements [shape]");
    insta::assert_snapshot!(refused(TensorView::from_bytes(&bytes[1..5], DType::F32, Layout::row_major([1, 1]))), @"bytes are not aligned for f32; copy them into aligned memory first [alignment]");
    let mut out = [0f32; 6];
    insta::assert_snapshot!(refused(TensorViewMut::strided(&mut out, Layout { offset: 0, shape: [3, 2], strides: [0, 1] })), @"shape [3, 2] with strides [0, 1] writes an element twice; outputs need a place of their own for every element [strides-overlap]");
    insta::assert_snapshot!(refused(TensorViewMut::strided(&mut out, Layout { offset: 0, shape: [3, 2], strides: [1, 1] })), @"shape [3, 2] with strides [1, 1] writes an element twice; outputs need a place of their own for every element [strides-overlap]");
}

#[test]
fn shapes_without_elements_touch_nothing() {
    let nothing: [f32; 0] = [];
    let view = TensorView::from_slice(&nothing, [0, 1 << 31]).unwrap();
    assert!(view.address_range().is_empty());
    TensorView::strided(&nothing, Layout { offset: 0, shape: [1 << 31, 0], strides: [1 << 40, -7] }).unwrap();
}

#[test]
fn overlaps_are_found_exactly() {
    for rows in 0..6usize {
        for features in 0..6usize {
            for row_stride in -7isize..=7 {
                for feature_stride in -7isize..=7 {
                    let layout = Layout { offset: 100, shape: [rows, features], strides: [row_stride, feature_stride] };
                    let mut positions: Vec<usize> =
                        (0..rows).flat_map(|row| (0..features).map(move |feature| layout.position(row, feature))).collect();
                    let count = positions.len();
                    positions.sort_unstable();
                    positions.dedup();
                    assert_eq!(layout.overlaps_itself(), positions.len() < count, "{layout:?}");
                }
            }
        }
    }
}

#[test]
fn outputs_are_written_through_any_distinct_strides() {
    let mut data = [bf16::ZERO; 6];
    let mut view = TensorViewMut::strided(&mut data, Layout { offset: 0, shape: [2, 3], strides: [1, 2] }).unwrap();
    let at = view.layout().position(1, 2);
    view.elements_mut::<bf16>().unwrap()[at] = bf16::ONE;
    assert_eq!(view.as_view().get::<bf16>(1, 2), bf16::ONE);
    assert!(view.elements_mut::<f32>().is_none());
    let mut array = ndarray::Array2::<f32>::zeros((2, 3));
    assert_eq!(TensorViewMut::from_array(&mut array).unwrap().shape(), [2, 3]);
    let mut transposed = ndarray::Array2::<f32>::zeros((2, 3)).reversed_axes();
    assert_eq!(TensorViewMut::from_array(&mut transposed).unwrap().shape(), [3, 2]);
}
