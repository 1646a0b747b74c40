// -------------------------------------------------------------------------------------------------------------- results

// Up to 16 bytes at once.
template <int BYTES> struct Word;
template <> struct Word<16> { typedef uint4 Of; };
template <> struct Word<8> { typedef uint2 Of; };
template <> struct Word<4> { typedef u32 Of; };
template <> struct Word<2> { typedef u16 Of; };

template <int TYPE> LF_DEVICE void store_row(const ReductionArgs& to, Self self, Index segment, const typename Type<TYPE>::Raw (&row)[VECTOR]) {
  typedef typename Type<TYPE>::Raw Out;
  if (!to.out || !self.on) return;
  u8* at = to.out + (i64)segment * to.out_row_stride + (i64)self.column * to.out_column_stride;
  if (VECTOR > 1 && to.vector_store) {
    constexpr int BYTES = VECTOR * (int)sizeof(Out) < 16 ? VECTOR * (int)sizeof(Out) : 16;
    constexpr int EACH = BYTES / (int)sizeof(Out);
    union Packed {
      Out elements[EACH];
      typename Word<BYTES>::Of word;
    };
#pragma unroll
    for (int first = 0; first < VECTOR; first += EACH) {
      Packed packed;
#pragma unroll
      for (int c = 0; c < EACH; ++c) packed.elements[c] = row[first + c];
      *(typename Word<BYTES>::Of*)(at + first * (int)sizeof(Out)) = packed.word;
    }
  } else {
#pragma unroll
    for (int c = 0; c < VECTOR; ++c) *(Out*)(at + c * to.out_column_stride) = row[c];
  }
}
