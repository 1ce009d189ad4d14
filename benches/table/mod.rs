//! The table that the measurements print, with the goal that each number is held against.

#![expect(clippy::print_stdout, reason = "a table is what these programs are for")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One number, and what it is held against.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The number of the pipeline written by hand.
    pub(crate) by_hand: Option<f64>,
    /// The most (or, for a rate, the least) that is accepted, in the unit of `value`; nothing where none was set.
    pub(crate) goal: Option<f64>,
    /// Whether more is better.
    pub(crate) is_rate: bool,
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        self.goal.map(|goal| if self.is_rate { self.value >= goal } else { self.value <= goal })
    }

    fn ratio(&self) -> Option<f64> {
        self.by_hand.map(|by_hand| self.value / by_hand)
    }
}

/// The number in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Milliseconds.
pub(crate) fn time(what: &'static str, runs: Vec<Duration>, goal: f64) -> Row {
    let value = median(runs.into_iter().map(|run| run.as_secs_f64() * 1e3).collect());
    Row { what, value, unit: "ms", by_hand: None, goal: Some(goal), is_rate: false }
}

/// Prints all rows, and writes them below `target`.
pub(crate) fn report(rows: &[Row], file: &str) {
    println!("{:<39}{:>10}{:>10}{:>8}{:>12}  {:<6}", "", "i2kit", "by hand", "ratio", "goal", "");
    for row in rows {
        let by_hand = row.by_hand.map_or(String::new(), |number| format!("{number:.2}"));
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let limit = if row.is_rate { ">=" } else { "<=" };
        let goal = row.goal.map_or(String::new(), |goal| format!("{limit} {goal:.2}"));
        let verdict = row.is_met().map_or("", |is_met| if is_met { "met" } else { "MISSED" });
        println!(
            "{:<39}{:>10.2}{by_hand:>10}{ratio:>8}{goal:>12}  {:<6}{verdict}",
            row.what, row.value, row.unit
        );
    }
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "what": row.what, "value": row.value, "unit": row.unit, "byHand": row.by_hand,
                "ratio": row.ratio(), "goal": row.goal, "met": row.is_met(),
            })
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(file);
    fs::write(&path, serde_json::to_string_pretty(&json!({ "version": 1, "rows": rows })).unwrap()).unwrap();
    println!("\nalso in {}", path.display());
}
