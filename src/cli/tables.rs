//! Tables as verbs print them: as kubectl's.

use comfy_table::{Table, presets};

use crate::text;

/// Tables as text, an empty line between them.
pub(super) fn lines(tables: &[Table]) -> String {
    let mut out = String::new();
    for table in tables {
        if !out.is_empty() {
            out.push('\n');
        }
        for line in table.lines() {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

/// A table without lines.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    // Columns touch the left edge and stand two spaces apart, as in kubectl's tables.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A row of a table. Each cell is one line, whatever strangers wrote into it.
pub(super) fn row<const N: usize>(cells: [String; N]) -> [String; N] {
    cells.map(|cell| text::line(&cell).into_owned())
}
