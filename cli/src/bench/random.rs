//! Numbers that follow from a seed and a position alone: the same on every machine.

/// SplitMix64 as a counter: the number at `index` of stream `stream`. Source: Steele, Lea, Flood, *Fast splittable pseudorandom number
/// generators*, 2014.
#[inline(always)]
pub(super) fn at(seed: u64, stream: u64, index: u64) -> u64 {
    let mut z = mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(z)
}

#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform below `bound`: the high half of a product, whose bias is below bound ÷ 2^64.
pub(super) fn below(number: u64, bound: u64) -> u64 {
    let high = (u128::from(number) * u128::from(bound)) >> 64;
    u64::try_from(high).unwrap_or(0)
}

/// Uniform in [−1, 1), a multiple of 2^-23: exact in f32.
#[inline(always)]
pub(super) fn unit(number: u64) -> f32 {
    // 24 bits, which f32 holds exactly.
    ((number >> 40) as u32) as f32 * (1.0 / 8_388_608.0) - 1.0
}
