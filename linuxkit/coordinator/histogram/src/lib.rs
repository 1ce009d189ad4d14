//! Histograms for the consensus library, in place of the crate `base2histogram`: what of its interface openraft 0.10 uses, and no
//! more.
//!
//! openraft counts sizes of batches in histograms, with its feature `runtime-stats` or without it. The first histogram of the crate
//! makes tables for 16 resolutions, of which one is used: 25 MB, in a program that has 5 MB without them, in each machine of a
//! replicated pod. Without that feature nobody reads what is counted. Here a histogram has a bucket for each power of two, and no
//! table: percentiles are the least value of their bucket, so that one is at most half as large as what was counted.

use std::fmt;
use std::marker::PhantomData;

/// Buckets: one for 0, and one for each number of bits.
const BUCKETS: usize = 65;

/// How often which values came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    data: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], data: PhantomData }
    }
}

/// The bucket of a value: its number of bits.
fn bucket(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    bucket.checked_sub(1).map_or(0, |bits| 1 << bits)
}

impl<T> Histogram<T> {
    /// One of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that came `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let counted = &mut self.counts[bucket(value)];
        *counted = counted.saturating_add(count);
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least value of the bucket below whose end so many thousandths of all values lie; 0 of a histogram of nothing.
    fn per_mille(&self, thousandths: u64) -> u64 {
        let wanted = u128::from(self.total()) * u128::from(thousandths);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += u128::from(*count);
            if *count > 0 && below * 1000 >= wanted {
                return least(bucket);
            }
        }
        0
    }

    /// Its usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// 0.1 % of the values are below about this.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The half.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[samples: {}, P0.1: {}, P1: {}, P5: {}, P10: {}, P50: {}, P90: {}, P99: {}, P99.9: {}]",
            self.samples, self.p0_1, self.p1, self.p5, self.p10, self.p50, self.p90, self.p99, self.p99_9
        )
    }
}

/// Histograms with their names, to be shown together: a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsciiChart<T = ()>(Vec<(String, Histogram<T>)>);

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> AsciiChart<T> {
    /// One of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one histogram more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_begin_with_their_least_value() {
        for (value, wanted) in
            [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (u64::MAX, 64)]
        {
            assert_eq!(bucket(value), wanted, "{value}");
            assert!(least(wanted) <= value);
            assert!(value / 2 < least(wanted).max(1), "{value}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_counted() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!((histogram.total(), histogram.percentile_stats().p50), (0, 0));
        histogram.record_n(10, 98);
        histogram.record(100);
        histogram.record(1000);
        let stats = histogram.percentile_stats();
        assert_eq!(
            (stats.samples, stats.p0_1, stats.p50, stats.p90, stats.p99, stats.p99_9),
            (100, 8, 8, 8, 64, 512)
        );
        histogram.record_n(5, u64::MAX);
        assert_eq!((histogram.total(), histogram.percentile_stats().p99), (u64::MAX, 4));
        let chart = AsciiChart::new().add("batches", histogram);
        assert!(chart.to_string().starts_with("batches: [samples: 18446744073709551615, "), "{chart}");
    }
}
