//! Turning: what lies column by column, copied row by row, through squares in registers.
//!
//! Columns are taken as many at a time as a vector has elements, and far along: every cache line of them is read once and whole, and so few streams
//! are read at once that a machine's prefetchers follow them. Elements are moved as bits.

use crate::Isa;

/// `rows × columns` elements of `size` bytes. Element (row, column) is read at `from + row · row_stride + column · column_stride`, in bytes,
/// and written to column `column` of a dense row, which begins at `to + row · to_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) from: *const u8,
    pub(crate) row_stride: isize,
    pub(crate) column_stride: isize,
    pub(crate) to: *mut u8,
    pub(crate) to_stride: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) size: usize,
    /// How many rows ahead the machine is told that it will be asked for; 0 for none. They need not exist.
    pub(crate) ahead: usize,
}

impl Turn {
    #[inline(always)]
    fn source(&self, row: usize, column: usize) -> *const u8 {
        self.from.wrapping_offset(row as isize * self.row_stride + column as isize * self.column_stride)
    }

    #[inline(always)]
    fn target(&self, row: usize, column: usize) -> *mut u8 {
        self.to.wrapping_add(row * self.to_stride + column * self.size)
    }

    /// Copies.
    ///
    /// # Safety
    /// All elements can be read, and written, and the two do not overlap; the machine has the instruction set.
    pub(crate) unsafe fn run(&self, isa: Isa) {
        let follows = self.row_stride == self.size as isize;
        // SAFETY: the caller's promise.
        unsafe {
            if self.column_stride == self.size as isize {
                for row in 0..self.rows {
                    std::ptr::copy_nonoverlapping(self.source(row, 0), self.target(row, 0), self.columns * self.size);
                }
                return;
            }
            match (isa, self.size) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 2) if follows => x86::wide_pairs(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 4) if follows => x86::wide_singles(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, 8) if follows => x86::wide_doubles(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 2) if follows => x86::pairs(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 4) if follows => x86::singles(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, 8) if follows => x86::doubles(self),
                (Isa::Baseline | Isa::Avx2 | Isa::Avx512, _) => self.one_by_one(0..self.rows, 0..self.columns),
            }
        }
    }

    /// Copies some rows and columns, an element at a time, in patches that lie in the first cache.
    unsafe fn one_by_one(&self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.size {
                2 => self.elements::<u16>(rows, columns),
                4 => self.elements::<u32>(rows, columns),
                8 => self.elements::<u64>(rows, columns),
                _ => self.elements::<u8>(rows, columns),
            }
        }
    }

    #[inline(always)]
    unsafe fn elements<E: Copy>(&self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) {
        const PATCH: usize = 16;
        // Along rows, where their elements are nearer to each other than those of columns.
        let by_row = self.row_stride.unsigned_abs() > self.column_stride.unsigned_abs();
        for first in columns.clone().step_by(PATCH) {
            let patch = first..columns.end.min(first + PATCH);
            // SAFETY: the caller's promise; every element of the patch is one of all.
            unsafe {
                let copy = |row, column| {
                    self.target(row, column).cast::<E>().write_unaligned(self.source(row, column).cast::<E>().read_unaligned())
                };
                if by_row {
                    for row in rows.clone() {
                        for column in patch.clone() {
                            copy(row, column);
                        }
                    }
                } else {
                    for from in rows.clone().step_by(PATCH) {
                        for column in patch.clone() {
                            for row in from..rows.end.min(from + PATCH) {
                                copy(row, column);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Turn;
    use crate::vector::halves::store_first;
    use crate::vector::squares::{square4, square8, square16, wide_square8};
    use std::arch::x86_64::*;
    use std::array::from_fn;

    /// Goes over patches of `$rows × $columns` elements, down the rows of a few columns first. Where `$part` is not for a patch, it is cut off at the edges.
    macro_rules! patches {
        ($turn:ident, $rows:literal, $columns:literal, |$row:ident, $column:ident| $whole:block, |$has_rows:ident, $has_columns:ident| $part:block) => {{
            let mut $column = 0;
            while $column < $turn.columns {
                let $has_columns = $columns.min($turn.columns - $column);
                let mut $row = 0;
                while $row < $turn.rows {
                    let $has_rows = $rows.min($turn.rows - $row);
                    if $turn.ahead > 0 {
                        for column in 0..$has_columns {
                            _mm_prefetch::<_MM_HINT_T1>($turn.source($row + $turn.ahead, $column + column).cast());
                        }
                    }
                    if $has_rows == $rows && $has_columns == $columns $whole else $part
                    $row += $rows;
                }
                $column += $columns;
            }
        }};
    }

    /// The first `count` lanes of up to 32.
    #[inline(always)]
    fn first(count: usize) -> u32 {
        ((1u64 << count) - 1) as u32
    }

    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn wide_singles(turn: &Turn) {
        // SAFETY: the caller's elements; what is not there is masked.
        unsafe {
            patches!(
                turn,
                16,
                16,
                |row, column| {
                    let rows = square16(from_fn(|k| _mm512_loadu_ps(turn.source(row, column + k).cast())));
                    for (k, lanes) in rows.into_iter().enumerate() {
                        _mm512_storeu_ps(turn.target(row + k, column).cast(), lanes);
                    }
                },
                |has_rows, has_columns| {
                    let mut columns = [_mm512_setzero_ps(); 16];
                    for (k, lanes) in columns.iter_mut().enumerate().take(has_columns) {
                        *lanes = _mm512_maskz_loadu_ps(first(has_rows) as __mmask16, turn.source(row, column + k).cast());
                    }
                    for (k, lanes) in square16(columns).into_iter().enumerate().take(has_rows) {
                        _mm512_mask_storeu_ps(turn.target(row + k, column).cast(), first(has_columns) as __mmask16, lanes);
                    }
                }
            );
        }
    }

    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn wide_doubles(turn: &Turn) {
        // SAFETY: the caller's elements; what is not there is masked.
        unsafe {
            patches!(
                turn,
                8,
                8,
                |row, column| {
                    let rows = wide_square8(from_fn(|k| _mm512_loadu_pd(turn.source(row, column + k).cast())));
                    for (k, lanes) in rows.into_iter().enumerate() {
                        _mm512_storeu_pd(turn.target(row + k, column).cast(), lanes);
                    }
                },
                |has_rows, has_columns| {
                    let mut columns = [_mm512_setzero_pd(); 8];
                    for (k, lanes) in columns.iter_mut().enumerate().take(has_columns) {
                        *lanes = _mm512_maskz_loadu_pd(first(has_rows) as __mmask8, turn.source(row, column + k).cast());
                    }
                    for (k, lanes) in wide_square8(columns).into_iter().enumerate().take(has_rows) {
                        _mm512_mask_storeu_pd(turn.target(row + k, column).cast(), first(has_columns) as __mmask8, lanes);
                    }
                }
            );
        }
    }

    /// Elements of two bytes: two rows of a column are one number of four.
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn wide_pairs(turn: &Turn) {
        // SAFETY: the caller's elements; what is not there is masked.
        unsafe {
            patches!(
                turn,
                32,
                16,
                |row, column| {
                    let pairs = square16(from_fn(|k| _mm512_loadu_ps(turn.source(row, column + k).cast())));
                    for (k, lanes) in pairs.into_iter().enumerate() {
                        let lanes = _mm512_castps_si512(lanes);
                        _mm256_storeu_si256(turn.target(row + 2 * k, column).cast(), _mm512_cvtepi32_epi16(lanes));
                        let later = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(lanes));
                        _mm256_storeu_si256(turn.target(row + 2 * k + 1, column).cast(), later);
                    }
                },
                |has_rows, has_columns| {
                    let mut columns = [_mm512_setzero_ps(); 16];
                    for (k, lanes) in columns.iter_mut().enumerate().take(has_columns) {
                        *lanes = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first(has_rows), turn.source(row, column + k).cast()));
                    }
                    for (k, lanes) in square16(columns).into_iter().enumerate().take(has_rows.div_ceil(2)) {
                        let lanes = _mm512_castps_si512(lanes);
                        store_first(turn.target(row + 2 * k, column).cast(), has_columns, _mm512_cvtepi32_epi16(lanes));
                        if 2 * k + 1 < has_rows {
                            let later = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(lanes));
                            store_first(turn.target(row + 2 * k + 1, column).cast(), has_columns, later);
                        }
                    }
                }
            );
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn singles(turn: &Turn) {
        // SAFETY: the caller's elements.
        unsafe {
            patches!(
                turn,
                8,
                8,
                |row, column| {
                    let rows = square8(from_fn(|k| _mm256_loadu_ps(turn.source(row, column + k).cast())));
                    for (k, lanes) in rows.into_iter().enumerate() {
                        _mm256_storeu_ps(turn.target(row + k, column).cast(), lanes);
                    }
                },
                |has_rows, has_columns| { turn.one_by_one(row..row + has_rows, column..column + has_columns) }
            );
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn doubles(turn: &Turn) {
        // SAFETY: the caller's elements.
        unsafe {
            patches!(
                turn,
                4,
                4,
                |row, column| {
                    let rows = square4(from_fn(|k| _mm256_loadu_pd(turn.source(row, column + k).cast())));
                    for (k, lanes) in rows.into_iter().enumerate() {
                        _mm256_storeu_pd(turn.target(row + k, column).cast(), lanes);
                    }
                },
                |has_rows, has_columns| { turn.one_by_one(row..row + has_rows, column..column + has_columns) }
            );
        }
    }

    /// As for AVX-512.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn pairs(turn: &Turn) {
        // SAFETY: the caller's elements.
        unsafe {
            patches!(
                turn,
                16,
                8,
                |row, column| {
                    let pairs = square8(from_fn(|k| _mm256_loadu_ps(turn.source(row, column + k).cast())));
                    for (k, lanes) in pairs.into_iter().enumerate() {
                        let lanes = _mm256_castps_si256(lanes);
                        let earlier = _mm256_and_si256(lanes, _mm256_set1_epi32(0xffff));
                        // Of each half of the vectors, four earlier and four later; then all earlier before all later.
                        let both = _mm256_packus_epi32(earlier, _mm256_srli_epi32::<16>(lanes));
                        let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
                        _mm_storeu_si128(turn.target(row + 2 * k, column).cast(), _mm256_castsi256_si128(both));
                        _mm_storeu_si128(turn.target(row + 2 * k + 1, column).cast(), _mm256_extracti128_si256::<1>(both));
                    }
                },
                |has_rows, has_columns| { turn.one_by_one(row..row + has_rows, column..column + has_columns) }
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every element is copied, and nothing else is written, for one instruction set.
    fn check(isa: Isa, size: usize, rows: usize, columns: usize, gaps: (usize, usize, usize), by_row: bool, ahead: usize) {
        let (along, across, behind) = gaps;
        // A source whose elements are spread apart in one direction or the other; `along` 0 is without gaps.
        let (inner, outer) = if by_row { (columns, rows) } else { (rows, columns) };
        let step = (1 + along) * size;
        let line = inner * step + across * size;
        let from: Vec<u8> = (0..(outer * line).max(1)).map(|index| (index * 7 + index / 256) as u8).collect();
        let (row_stride, column_stride) = if by_row { (line, step) } else { (step, line) };
        let to_stride = (columns + behind) * size;
        let mut to = vec![0xa5u8; rows * to_stride + 64];
        let mut wanted = to.clone();
        for row in 0..rows {
            for column in 0..columns {
                let (source, target) = (row * row_stride + column * column_stride, row * to_stride + column * size);
                wanted[target..target + size].copy_from_slice(&from[source..source + size]);
            }
        }
        let turn = Turn {
            from: from.as_ptr(),
            row_stride: row_stride as isize,
            column_stride: column_stride as isize,
            to: to.as_mut_ptr(),
            to_stride,
            rows,
            columns,
            size,
            ahead,
        };
        // SAFETY: both vectors have all of these elements, and the machine the instruction set.
        unsafe { turn.run(isa) };
        assert_eq!(to, wanted, "{isa}, {size} bytes, {rows} x {columns}, gaps {gaps:?}, by row {by_row}");
    }

    fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    #[test]
    fn every_size_around_the_edges_of_patches_is_turned() {
        for isa in available() {
            for size in [1, 2, 4, 8] {
                for rows in [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65] {
                    for columns in [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
                        check(isa, size, rows, columns, (0, 0, 0), false, 0);
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_strides_are_turned(
            size in prop::sample::select(vec![1usize, 2, 4, 8]),
            rows in 0usize..80,
            columns in 0usize..80,
            gaps in (0usize..3, 0usize..5, 0usize..5),
            by_row in any::<bool>(),
            ahead in prop::sample::select(vec![0usize, 64]),
        ) {
            for isa in available() {
                check(isa, size, rows, columns, gaps, by_row, ahead);
            }
        }
    }
}
