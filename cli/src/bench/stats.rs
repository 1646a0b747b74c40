//! Medians and spreads of a few samples.

/// Samples, sorted.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Of these numbers, in any order.
    pub(crate) fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Samples(samples)
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; NaN of none.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Between the two nearest samples, linearly; NaN of none.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let position = q.clamp(0.0, 1.0) * last as f64;
        let low = position.floor();
        // A position below the number of samples.
        let index = low as usize;
        let next = self.0[(index + 1).min(last)];
        self.0[index] + (next - self.0[index]) * (position - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        let samples = Samples::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((samples.median(), samples.quantile(0.0), samples.quantile(1.0), samples.len()), (2.5, 1.0, 4.0, 4));
        assert_eq!(Samples::new((0..11).map(f64::from).collect()).quantile(0.9), 9.0);
        assert!(Samples::new(Vec::new()).median().is_nan());
    }
}
