//! Tables for a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table as Grid};

use super::safe;

/// Rows under a header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|title| safe(title)).collect(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines of the table: columns two blanks apart, never wrapped.
    pub fn lines(&self) -> Vec<String> {
        let mut grid = Grid::new();
        grid.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(&self.header);
        for row in &self.rows {
            grid.add_row(row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { safe(cell) }));
        }
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        grid.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["POINT", "KIND", "REASON"]);
        table.row(["shop".into(), "Space".into(), String::new()]);
        table.row(["shop:cart".into(), "Mechtron".into(), "two\nlines".into()]);
        assert_eq!(
            table.lines(),
            ["POINT      KIND      REASON", "shop       Space     -", "shop:cart  Mechtron  two␊lines"]
        );
    }
}
