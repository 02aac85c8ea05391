//! Draws an overview on a terminal.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row as TableRow, Table, Wrap};

use super::model::{COLUMNS, Mark, Overview};

/// Space between columns, in characters.
const COLUMN_SPACING: usize = 2;
/// Columns that are omitted, in this order, if the terminal is too narrow for all.
const OPTIONAL: [&str; 10] =
    ["CLIENTS", "LOSS", "RTT", "COMMIT", "TERM", "MEMORY", "APPLIED", "BEHIND", "OPS/S", "LAG"];

/// Draws the overview on the whole frame: summary, table, problems and keys.
pub(super) fn draw(frame: &mut Frame<'_>, overview: &Overview, interval: Duration) {
    let table_lines = u16::try_from(overview.rows.len() + 1).unwrap_or(u16::MAX);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Max(table_lines),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [summary, table, _, problems, keys] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(format!("bowline: {}", overview.summary)), summary);
    frame.render_widget(rows(overview, usize::from(table.width)), table);
    let lines: Vec<Line<'_>> = overview.problems.iter().map(|text| text.as_str().into()).collect();
    let warning = Style::new().fg(Color::Red);
    let text = Paragraph::new(lines).style(warning).wrap(Wrap { trim: true });
    frame.render_widget(text, problems);
    let stale = if overview.is_stale { "the table shows earlier values; " } else { "" };
    let help = format!("{stale}refreshed every {} s; q quits", interval.as_secs());
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(help).style(dim), keys);
}

/// Returns the columns that fit into `width_max` characters: their positions in [`COLUMNS`] and
/// their widths.
fn columns(overview: &Overview, width_max: usize) -> Vec<(usize, usize)> {
    let width = |at: usize| {
        let cells = overview.rows.iter().map(|row| row.cells[at].chars().count());
        cells.chain([COLUMNS[at].len()]).max().unwrap_or(0)
    };
    let mut columns: Vec<(usize, usize)> = (0..COLUMNS.len()).map(|at| (at, width(at))).collect();
    for optional in OPTIONAL {
        let widths: usize = columns.iter().map(|(_, width)| width + COLUMN_SPACING).sum();
        if widths <= width_max + COLUMN_SPACING {
            break;
        }
        columns.retain(|(at, _)| COLUMNS[*at] != optional);
    }
    columns
}

/// Returns the table with the columns that fit into `width_max` characters.
fn rows(overview: &Overview, width_max: usize) -> Table<'_> {
    let columns = columns(overview, width_max);
    let length = |chars: usize| u16::try_from(chars).unwrap_or(u16::MAX);
    let widths = columns.iter().map(|(_, width)| Constraint::Length(length(*width)));
    let header = TableRow::new(columns.iter().map(|(at, _)| COLUMNS[*at]));
    let header = header.style(Style::new().add_modifier(Modifier::BOLD));
    let rows = overview.rows.iter().map(|row| {
        let style = if overview.is_stale { stale() } else { style(row.mark) };
        TableRow::new(columns.iter().map(|(at, _)| row.cells[*at].as_str())).style(style)
    });
    Table::new(rows, widths).header(header).column_spacing(length(COLUMN_SPACING))
}

fn stale() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// Returns the style of a row. Its text conveys the same information as its colour.
fn style(mark: Mark) -> Style {
    match mark {
        Mark::Leader => Style::new().fg(Color::Green),
        Mark::Follower => Style::new(),
        Mark::Warning => Style::new().fg(Color::Yellow),
        Mark::Unreachable => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::tests::{LEADER, sample};
    use super::*;

    /// Draws on a terminal of this size, and returns it.
    fn drawn(overview: &Overview, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, overview, Duration::from_secs(5))).unwrap();
        terminal
    }

    fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
        let text = terminal.backend().to_string();
        text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
    }

    #[test]
    fn top_draws_summary_table_problems_and_keys() {
        let overview = Overview::new(None, &sample(Instant::now(), 0, &[Some(LEADER), None]));
        let terminal = drawn(&overview, 130, 10);
        let lines = lines(&terminal);
        let summary = "bowline: leader 1, 1 of 3 replicas answer, - commands/s, feature level 2";
        assert_eq!(lines[0], summary);
        assert!(lines[2].starts_with("ID  ADDRESS        ROLE         TERM  COMMIT"), "{lines:#?}");
        assert!(lines[3].starts_with("1   10.0.0.1:6379  leader       4     110 "), "{lines:#?}");
        assert!(lines[4].starts_with("2   10.0.0.2:6379  unreachable  -     -   "), "{lines:#?}");
        assert_eq!(lines[6], "replica 2: cannot connect: Connection refused");
        assert!(lines[8].contains("no leader") || lines[7].contains("heard from: 1"));
        assert_eq!(lines[9], "refreshed every 5 s; q quits");
        let colours: Vec<Color> =
            [3, 4].map(|line| terminal.backend().buffer()[(0, line)].fg).to_vec();
        assert_eq!(colours, [Color::Green, Color::Red]);
    }

    #[test]
    fn top_leaves_out_columns_that_do_not_fit() {
        let overview = Overview::new(None, &sample(Instant::now(), 0, &[Some(LEADER), None]));
        let header = |width| lines(&drawn(&overview, width, 10)).remove(2);
        assert_eq!(header(200), header(130));
        for column in COLUMNS {
            assert!(header(130).contains(column), "{column}");
        }
        let narrow = lines(&drawn(&overview, 80, 10));
        let kept =
            "ID  ADDRESS        ROLE         TERM  APPLIED  LAG  BEHIND  OPS/S  MEMORY  DISK";
        assert_eq!(narrow[2], kept);
        assert!(narrow[3].ends_with("ok"), "{narrow:#?}");
        assert_eq!(header(40), "ID  ADDRESS        ROLE         DISK");
    }

    #[test]
    fn top_draws_on_terminals_of_any_size() {
        let overview = Overview::new(None, &sample(Instant::now(), 0, &[Some(LEADER), None, None]));
        for (width, height) in [(1, 1), (20, 2), (40, 5), (300, 3)] {
            assert_eq!(lines(&drawn(&overview, width, height)).len(), usize::from(height));
        }
    }
}
