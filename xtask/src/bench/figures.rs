//! A table of figures, each measured in several rounds.

use super::{statistics::Sample, table};

/// Figures in the order in which they were first added.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    goal: &'static str,
    sample: Sample,
}

impl Figures {
    /// Adds a value to those of `what`. `goal` is what it should be, for the reader.
    pub(super) fn add(&mut self, what: &str, goal: &'static str, value: f64) {
        let row = match self.rows.iter().position(|row| row.what == what) {
            Some(row) => &mut self.rows[row],
            None => {
                self.rows.push(Row { what: what.to_owned(), goal, sample: Sample::default() });
                let last = self.rows.len() - 1;
                &mut self.rows[last]
            }
        };
        row.sample.add(value);
    }

    /// Prints the table below a title.
    pub(super) fn print(&self, title: &str) {
        let mut table = table(&["", "median", "least", "most", "goal"]);
        for Row { what, goal, sample } in &self.rows {
            let [median, least, most] = [sample.median(), sample.min(), sample.max()].map(shown);
            table.add_row([what.clone(), median, least, most, (*goal).to_owned()]);
        }
        println!("\n{title}\n\n{table}");
    }
}

/// With about three digits.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_thing_are_one_row() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0] {
            figures.add("a", "less", value);
            figures.add("b", "", 10.0 * value);
        }
        assert_eq!(figures.rows.len(), 2);
        assert_eq!((figures.rows[0].sample.median(), figures.rows[1].sample.max()), (2.0, 30.0));
    }

    #[test]
    fn digits_fit_the_value() {
        for (value, expected) in
            [(0.0, "0"), (0.01234, "0.0123"), (0.5, "0.50"), (12.345, "12.3"), (123456.7, "123457")]
        {
            assert_eq!(shown(value), expected);
        }
    }
}
