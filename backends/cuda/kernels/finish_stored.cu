// A result of the second pass over long segments, rounded and stored. Where operations follow, they and the type that is rounded to before them are known
// when this is compiled.

#ifdef LF_FINISH_OPS
constexpr OpSpec FINISH_OPS[] = {LF_FINISH_OPS};

struct FinishOps {
  static constexpr int COUNT = sizeof(FINISH_OPS) / sizeof(OpSpec);
  static constexpr OpSpec at(int n) { return FINISH_OPS[n]; }
};
#endif

LF_DEVICE void store_finished(const FinishArgs& args, u64 row, u32 column, double value) {
  u8* const at = args.out + (i64)row * args.out_row_stride + (i64)column * args.out_column_stride;
#ifdef LF_FINISH_OPS
  store_float(at, args.out_type, all_operations<FinishOps, LF_FINISH_TYPE>(Type<LF_FINISH_TYPE>::widen(Type<LF_FINISH_TYPE>::nearest(value))));
#else
  store_float(at, args.out_type, value);
#endif
}
