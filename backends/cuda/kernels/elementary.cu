// Elementary functions as fixed sequences of IEEE operations: the CUDA twin of `src/numerics/elementary.rs`, operation for operation.
//
// Needs no header. What it asks of the compiler: no contraction of a·b + c (NVRTC: --fmad=false; g++: -ffp-contract=off), correctly rounded
// division and square root (--prec-div=true, --prec-sqrt=true) and subnormals (--ftz=false). Results are then the same bits as on the CPU, NaNs
// included: `tests/elementary_cuda.rs` compiles this file for the CPU and compares. The methods, their accuracy and where the
// coefficients come from are documented in the Rust file.

#ifdef __CUDACC__
#define LF_ELEMENTARY static __device__ __forceinline__
#else
#define LF_ELEMENTARY static inline
#endif

typedef unsigned int lf_u32;
typedef unsigned long long lf_u64;

LF_ELEMENTARY lf_u32 lf_bits(float x) {
    union { float number; lf_u32 bits; } value;
    value.number = x;
    return value.bits;
}

LF_ELEMENTARY lf_u64 lf_bits(double x) {
    union { double number; lf_u64 bits; } value;
    value.number = x;
    return value.bits;
}

LF_ELEMENTARY float lf_of_bits(lf_u32 bits) {
    union { lf_u32 bits; float number; } value;
    value.bits = bits;
    return value.number;
}

LF_ELEMENTARY double lf_of_bits(lf_u64 bits) {
    union { lf_u64 bits; double number; } value;
    value.bits = bits;
    return value.number;
}

// What differs between the widths.
template <typename Float> struct lf_type;

template <> struct lf_type<float> {
    typedef lf_u32 Bits;
    typedef int Signed;
    static const lf_u32 sign = 0x80000000u, fraction = 23, bias = 127, nan = 0x7fc00000u, infinity = 0x7f800000u, root_half = 0x3f3504f3u;
    LF_ELEMENTARY float magic() { return 12582912.0f; }
    LF_ELEMENTARY float log2_e() { return 1.4426950408889634f; }
    LF_ELEMENTARY float ln2_high() { return 0.69314575f; }
    LF_ELEMENTARY float ln2_low() { return 1.4286068e-6f; }
    LF_ELEMENTARY float exp_least() { return -104.0f; }
    LF_ELEMENTARY float exp_most() { return 89.0f; }
    LF_ELEMENTARY float erf_center() { return 2.0f; }
    LF_ELEMENTARY float erf_top() { return 4.0f; }
    LF_ELEMENTARY float gelu_root() { return 0.7978845608028654f; }
    LF_ELEMENTARY float gelu_cube() { return 0.044715f; }
    LF_ELEMENTARY float exp_polynomial(float x) {
        return ((((1.9790255e-4f * x + 1.3944744e-3f) * x + 8.333498e-3f) * x + 4.1666295e-2f) * x + 1.6666666e-1f) * x + 5.0e-1f;
    }
    LF_ELEMENTARY float log_polynomial(float x) {
        return ((2.3582825e-1f * x + 2.8537276e-1f) * x + 4.0000334e-1f) * x + 6.666666e-1f;
    }
    LF_ELEMENTARY float tanh_polynomial(float x) {
        return (((-5.7050027e-3f * x + 2.0639103e-2f) * x + -5.373972e-2f) * x + 1.3331442e-1f) * x + -3.333328e-1f;
    }
    LF_ELEMENTARY float erf_polynomial(float x) {
        return (((((7.889119e-5f * x + -8.0208416e-4f) * x + 5.189535e-3f) * x + -2.6854444e-2f) * x + 1.12836e-1f) * x + -3.7612626e-1f) * x +
               1.2837917e-1f;
    }
    LF_ELEMENTARY float erfcx_polynomial(float x) {
        return ((((7.212548e-3f * x + 3.7297371e-3f) * x + -7.8986906e-2f) * x + 2.4165727e-1f) * x + -4.2718586e-1f) * x + 2.5539568e-1f;
    }
};

template <> struct lf_type<double> {
    typedef lf_u64 Bits;
    typedef long long Signed;
    static const lf_u64 sign = 0x8000000000000000ull, fraction = 52, bias = 1023, nan = 0x7ff8000000000000ull,
                        infinity = 0x7ff0000000000000ull, root_half = 0x3fe6a09e667f3bcdull;
    LF_ELEMENTARY double magic() { return 6755399441055744.0; }
    LF_ELEMENTARY double log2_e() { return 1.4426950408889634; }
    LF_ELEMENTARY double ln2_high() { return 0.6931471803691238; }
    LF_ELEMENTARY double ln2_low() { return 1.9082149292705877e-10; }
    LF_ELEMENTARY double exp_least() { return -746.0; }
    LF_ELEMENTARY double exp_most() { return 710.0; }
    LF_ELEMENTARY double erf_center() { return 3.0; }
    LF_ELEMENTARY double erf_top() { return 6.0; }
    LF_ELEMENTARY double gelu_root() { return 0.7978845608028654; }
    LF_ELEMENTARY double gelu_cube() { return 0.044715; }
    LF_ELEMENTARY double exp_polynomial(double x) {
        double p = 2.4999972868509646e-8;
        p = p * x + 2.763035888627195e-7;
        p = p * x + 2.755758721612244e-6;
        p = p * x + 2.480149281385729e-5;
        p = p * x + 0.00019841269505020196;
        p = p * x + 0.001388888894387806;
        p = p * x + 0.008333333333495455;
        p = p * x + 0.04166666666652934;
        p = p * x + 0.1666666666666641;
        return p * x + 0.5000000000000011;
    }
    LF_ELEMENTARY double log_polynomial(double x) {
        double p = 0.1479669050705381;
        p = p * x + 0.15313981051427175;
        p = p * x + 0.1818356685466481;
        p = p * x + 0.2222219852841373;
        p = p * x + 0.2857142874278245;
        p = p * x + 0.39999999999413116;
        return p * x + 0.6666666666666735;
    }
    LF_ELEMENTARY double tanh_polynomial(double x) {
        double p = 6.042487650774061e-6;
        p = p * x + -3.0187267526898906e-5;
        p = p * x + 9.15584620302961e-5;
        p = p * x + -0.00023701176118557076;
        p = p * x + 0.0005894518111972006;
        p = p * x + -0.00145572595129941;
        p = p * x + 0.003592114000454293;
        p = p * x + -0.00886323431264796;
        p = p * x + 0.02186948846872077;
        p = p * x + -0.05396825396605915;
        p = p * x + 0.13333333333329744;
        return p * x + -0.33333333333333315;
    }
    LF_ELEMENTARY double erf_polynomial(double x) {
        double p = -7.801189538989915e-10;
        p = p * x + 1.3722975567005645e-8;
        p = p * x + -1.6209175465694306e-7;
        p = p * x + 1.6447517576386865e-6;
        p = p * x + -1.492474465104607e-5;
        p = p * x + 0.00012055295319610948;
        p = p * x + -0.0008548325989657964;
        p = p * x + 0.005223977607422444;
        p = p * x + -0.026866170643276066;
        p = p * x + 0.11283791670945252;
        p = p * x + -0.3761263890318355;
        return p * x + 0.12837916709551256;
    }
    LF_ELEMENTARY double erfcx_polynomial(double x) {
        double p = -6.579407413289298e-6;
        p = p * x + -6.440968142693669e-6;
        p = p * x + 7.162401286762224e-5;
        p = p * x + 5.02185459321715e-5;
        p = p * x + -0.0005950000910232623;
        p = p * x + 0.0007083055417633226;
        p = p * x + 0.004269232724714197;
        p = p * x + -0.024392489969432395;
        p = p * x + 0.07166583744041927;
        p = p * x + -0.15011593654566557;
        p = p * x + 0.24560380170781032;
        p = p * x + -0.3262335600431626;
        return p * x + 0.17900115118139;
    }
};

template <typename F> LF_ELEMENTARY F lf_canonical(F x) {
    return x != x ? lf_of_bits(lf_type<F>::nan) : x;
}

template <typename F> LF_ELEMENTARY F lf_magnitude(F x) {
    return lf_of_bits((typename lf_type<F>::Bits)(lf_bits(x) & ~lf_type<F>::sign));
}

// A magnitude with the sign of another number.
template <typename F> LF_ELEMENTARY F lf_with_sign(F magnitude, F of) {
    typedef typename lf_type<F>::Bits Bits;
    return lf_of_bits((Bits)((lf_bits(magnitude) & ~lf_type<F>::sign) | (lf_bits(of) & lf_type<F>::sign)));
}

template <typename F> LF_ELEMENTARY F lf_power_of_two(typename lf_type<F>::Signed k) {
    typedef typename lf_type<F>::Bits Bits;
    return lf_of_bits((Bits)(((Bits)k + lf_type<F>::bias) << lf_type<F>::fraction));
}

// e^x, and what its last rounding took off.
template <typename F> LF_ELEMENTARY F lf_exp_with_rest(F x, F *rest) {
    typedef lf_type<F> T;
    F clamped = x > T::exp_most() ? T::exp_most() : x;
    clamped = clamped < T::exp_least() ? T::exp_least() : clamped;
    F shifted = clamped * T::log2_e() + T::magic();
    F n = shifted - T::magic();
    typename T::Signed k = (typename T::Signed)(lf_bits(shifted) - lf_bits(T::magic()));
    F high = clamped - n * T::ln2_high();
    F low = n * T::ln2_low();
    F r = high - low;
    F less = (low - (r * r) * T::exp_polynomial(r)) - high;
    F y = (F)1 - less;
    F taken = ((F)1 - y) - less;
    typename T::Signed half = k >> 1;
    F first = lf_power_of_two<F>(half);
    F second = lf_power_of_two<F>((typename T::Signed)((typename T::Bits)k - (typename T::Bits)half));
    *rest = (taken * first) * second;
    y = (y * first) * second;
    return x != x ? lf_of_bits(T::nan) : y;
}

template <typename F> LF_ELEMENTARY F lf_exp(F x) {
    F rest;
    return lf_exp_with_rest(x, &rest);
}

template <typename F> LF_ELEMENTARY F lf_log(F x) {
    typedef lf_type<F> T;
    typedef typename T::Bits Bits;
    const Bits one = (Bits)(T::bias << T::fraction);
    const F whole = lf_of_bits((Bits)((T::bias + T::fraction) << T::fraction));
    const F subnormal = lf_of_bits((Bits)((T::bias + T::fraction + 1) << T::fraction));
    bool is_subnormal = x < lf_of_bits((Bits)((Bits)1 << T::fraction));
    F scaled = is_subnormal ? x * subnormal : x;
    Bits bits = lf_bits(scaled) + (one - T::root_half);
    Bits scale = is_subnormal ? T::fraction + 1 : 0;
    Bits biased = (bits >> T::fraction) + 3 * T::bias - scale;
    F k = lf_of_bits((Bits)(lf_bits(whole) + biased)) - (whole + (F)4 * (F)T::bias);
    F m = lf_of_bits((Bits)((bits & (((Bits)1 << T::fraction) - 1)) + T::root_half));
    F f = m - (F)1;
    F s = f / ((F)2 + f);
    F z = s * s;
    F r = z * T::log_polynomial(z);
    F half = (F)0.5 * f * f;
    F y = k * T::ln2_high() - ((half - (s * (half + r) + k * T::ln2_low())) - f);
    y = lf_bits(x) == T::infinity ? x : y;
    y = x == (F)0 ? lf_of_bits((Bits)(T::infinity | T::sign)) : y;
    return x >= (F)0 ? y : lf_of_bits(T::nan);
}

template <typename F> LF_ELEMENTARY F lf_tanh(F x) {
    F a = lf_magnitude(x);
    F z = a * a;
    F small = a + a * (z * lf_type<F>::tanh_polynomial(z));
    F large = (F)1 - (F)2 / (lf_exp(a + a) + (F)1);
    return lf_canonical(lf_with_sign(a < (F)0.625 ? small : large, x));
}

template <typename F> LF_ELEMENTARY F lf_sigmoid(F x) {
    F rest;
    F e = lf_exp_with_rest(-lf_magnitude(x), &rest);
    bool below = x < (F)0;
    F above = below ? e : (F)1;
    F above_rest = below ? rest : (F)0;
    F sum = (F)1 + e;
    F sum_rest = (e - (sum - (F)1)) + rest;
    F y = above / sum;
    F inverse = below ? (F)1 - y : y;
    return lf_canonical(y + (above_rest - y * sum_rest) * inverse);
}

template <typename F> LF_ELEMENTARY F lf_erf(F x) {
    typedef lf_type<F> T;
    F a = lf_magnitude(x);
    F small = a + a * T::erf_polynomial(a * a);
    F b = a > T::erf_top() ? T::erf_top() : a;
    F u = (b - T::erf_center()) / (b + T::erf_center());
    F large = (F)1 - lf_exp(-(b * b)) * T::erfcx_polynomial(u);
    return lf_canonical(lf_with_sign(a < (F)1 ? small : large, x));
}

template <typename F> LF_ELEMENTARY F lf_gelu(F x) {
    F phi = (F)1 + lf_erf(x * (F)0.7071067811865476);
    return lf_canonical(((F)0.5 * x) * phi);
}

template <typename F> LF_ELEMENTARY F lf_gelu_tanh(F x) {
    typedef lf_type<F> T;
    F cube = (x * x) * x;
    F phi = (F)1 + lf_tanh(T::gelu_root() * (x + T::gelu_cube() * cube));
    return lf_canonical(((F)0.5 * x) * phi);
}

template <typename F> LF_ELEMENTARY F lf_silu(F x) {
    return lf_canonical(x * lf_sigmoid(x));
}

LF_ELEMENTARY double lf_sin_polynomial(double z) {
    double p = 1.5896796103049239e-10;
    p = p * z + -2.5050758124194802e-8;
    p = p * z + 2.7557313691985703e-6;
    p = p * z + -0.00019841269829808052;
    p = p * z + 0.008333333333322415;
    return p * z + -0.16666666666666632;
}

LF_ELEMENTARY double lf_cos_polynomial(double z) {
    double p = -1.1359648494099235e-11;
    p = p * z + 2.0875723289620876e-9;
    p = p * z + -2.755731435248203e-7;
    p = p * z + 2.480158728948283e-5;
    p = p * z + -0.0013888888888874125;
    return p * z + 0.0416666666666666;
}

// Sine and cosine of |x| <= 2^31; NaN beyond.
LF_ELEMENTARY void lf_sine_and_cosine(double x, double *sine, double *cosine) {
    const double magic = 6755399441055744.0;
    double a = lf_magnitude(x);
    double shifted = a * 0.6366197723675814 + magic;
    double n = shifted - magic;
    lf_u64 quadrant = lf_bits(shifted);
    double rest = (a - n * 1.570796012878418) - n * 3.139164164167596e-7;
    double third = n * 6.223372171896613e-14;
    double r = rest - third;
    double low = (rest - r) - third;
    double z = r * r;
    double half = 0.5 * z;
    double s = r + ((r * z) * lf_sin_polynomial(z) + low * (1.0 - half));
    double one_less = 1.0 - half;
    double c = one_less + (((1.0 - one_less) - half) + ((z * z) * lf_cos_polynomial(z) - r * low));
    bool odd = (quadrant & 1) == 1;
    lf_u64 flip_sine = (quadrant & 2) << 62;
    lf_u64 flip_cosine = ((quadrant + 1) & 2) << 62;
    double sine_of = lf_of_bits(lf_bits(odd ? c : s) ^ flip_sine ^ (lf_bits(x) & lf_type<double>::sign));
    double cosine_of = lf_of_bits(lf_bits(odd ? s : c) ^ flip_cosine);
    bool inside = a <= 2147483648.0;
    *sine = inside ? sine_of : lf_of_bits(lf_type<double>::nan);
    *cosine = inside ? cosine_of : lf_of_bits(lf_type<double>::nan);
}

template <typename F> LF_ELEMENTARY F lf_sin(F x) {
    double sine, cosine;
    lf_sine_and_cosine((double)x, &sine, &cosine);
    return lf_canonical((F)sine);
}

template <typename F> LF_ELEMENTARY F lf_cos(F x) {
    double sine, cosine;
    lf_sine_and_cosine((double)x, &sine, &cosine);
    return lf_canonical((F)cosine);
}
