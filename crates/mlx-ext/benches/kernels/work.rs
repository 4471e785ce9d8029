//! What one row of a table measures: weights that are read, beside a plain read of the same, and products.

use super::{bandwidth, peak::Peak, timing};

/// What one measurement computes.
pub(crate) struct Work<'a> {
    pub(crate) layer: &'a str,
    pub(crate) rows: i32,
    /// Multiply-adds of all products with weights.
    pub(crate) products: f64,
    /// The weights that are read, once for every call that reads them.
    pub(crate) words: Vec<&'a [u32]>,
    pub(crate) compute: &'a mut dyn FnMut(),
}

/// Prints the first lines of a table of [`Work`].
pub(crate) fn header() {
    println!("| layer | rows | kernel, GB/s | plain read | share | multiply-adds | share of the peak |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
}

impl Work<'_> {
    /// Prints the row.
    pub(crate) fn measure(self, peak: Option<&Peak>) {
        let [ours, read] = timing::in_turns([self.compute, &mut || bandwidth::read(&self.words)]);
        let bytes = self.words.iter().map(|words| size_of_val(*words)).sum::<usize>() as f64;
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.0} % | {:.1} | {} |",
            self.layer,
            self.rows,
            bytes / ours / 1e9,
            bytes / read / 1e9,
            100.0 * read / ours,
            self.products / ours / 1e9,
            share(self.products / ours, peak),
        );
    }
}

/// Of the peak, as a table has it.
pub(crate) fn share(rate: f64, peak: Option<&Peak>) -> String {
    peak.map_or("-".to_owned(), |peak| format!("{:.0} %", 100.0 * rate / peak.rate))
}
