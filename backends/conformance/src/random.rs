//! Random numbers from a seed that failures print.

/// SplitMix64 (G. Steele, D. Lea, C. Flood, 2014): small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Random { state: seed }
    }

    /// The seed of a case, from its name.
    pub fn seed_of(name: &str) -> u64 {
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `count`; 0 where it is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        self.bits() % count.max(1)
    }

    /// In [0, 1), 53 digits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The number with either sign.
    pub fn signed(&mut self, number: f64) -> f64 {
        if self.bits() & 1 == 1 { -number } else { number }
    }

    /// Once in `one_in`, on average.
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(u64::try_from(from.len()).expect("a small list"))).expect("a small list");
        &from[at]
    }
}
