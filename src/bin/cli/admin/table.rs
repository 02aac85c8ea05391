//! Prints a table with aligned columns.

/// Prints `columns` as the first line, and the rows below, each with as many cells.
pub(super) fn print(columns: &[&str], rows: &[Vec<String>]) {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([columns[at].len()]).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> =
            cells.enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at))).collect();
        println!("{}", cells.join("  ").trim_end());
    };
    line(&mut columns.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
