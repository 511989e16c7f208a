//! Problems as a good compiler shows them.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use starlane_core::{Place, Problem};

use super::safe;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const BOLD: Style = Style::new().bold();
const MARK: Style = AnsiColor::Red.on_default();
const HELP: Style = AnsiColor::Cyan.on_default();
const DIM: Style = Style::new().dimmed();

/// How many characters of a source line are shown around the place.
const WINDOW: usize = 96;
/// How many errors inside a document are shown; more are counted.
const ERRORS_MAX: usize = 10;

/// The problem in words, styled; with a newline at its end.
///
/// ```text
/// error[E-KIND-UNKNOWN]: no kind `Mechatron`
///    │ create shop:cart<Mechatron>
///    ·                  ────┬────
///    ·                      not a kind
///   help: did you mean `Mechtron`?
/// ```
pub fn render(problem: &Problem) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    _ = write(problem, &mut text);
    text
}

fn write(problem: &Problem, out: &mut String) -> std::fmt::Result {
    let detail = safe(&problem.detail);
    writeln!(out, "{ERROR}error[{}]{ERROR:#}{BOLD}: {detail}{BOLD:#}", problem.code)?;
    if let Some(place) = &problem.place {
        write_place(place, out)?;
    } else if let Some(point) = &problem.point
        && !problem.detail.contains(point.as_str())
    {
        writeln!(out, "  {DIM}at{DIM:#} {}", safe(point.as_str()))?;
    }
    for error in problem.errors.iter().take(ERRORS_MAX) {
        let pointer = if error.pointer.is_empty() { "/" } else { &error.pointer };
        writeln!(out, "   {DIM}·{DIM:#} {}: {}", safe(pointer), safe(&error.detail))?;
    }
    if problem.errors.len() > ERRORS_MAX {
        writeln!(out, "   {DIM}·{DIM:#} and {} more", problem.errors.len() - ERRORS_MAX)?;
    }
    if let Some(seconds) = problem.retry_after {
        writeln!(out, "  {HELP}note{HELP:#}: worth another try in {seconds} s")?;
    }
    if let Some(help) = &problem.help {
        let mut lines = help.lines();
        writeln!(out, "  {HELP}help{HELP:#}: {}", safe(lines.next().unwrap_or_default()))?;
        for line in lines {
            writeln!(out, "        {}", safe(line))?;
        }
    }
    Ok(())
}

fn write_place(place: &Place, out: &mut String) -> std::fmt::Result {
    let line = place.line();
    let numbered = !place.name.is_empty() || place.source.trim_end().contains('\n');
    let number = if numbered { line.to_string() } else { String::new() };
    let gutter = number.len().max(2);
    if !place.name.is_empty() {
        writeln!(out, "{:gutter$}{DIM}──▸{DIM:#} {}:{line}:{}", "", safe(&place.name), place.column())?;
    }
    let shown = Shown::of(place);
    writeln!(out, "{DIM}{number:>gutter$} │{DIM:#} {}", shown.line)?;
    let mark = if shown.width > 1 {
        let left = shown.width / 2;
        format!("{}┬{}", "─".repeat(left), "─".repeat(shown.width - left - 1))
    } else {
        "┬".to_owned()
    };
    let blank = " ".repeat(shown.before);
    if place.label.is_empty() {
        let mark = mark.replace('┬', "─");
        return writeln!(out, "{:gutter$} {DIM}·{DIM:#} {blank}{MARK}{mark}{MARK:#}", "");
    }
    writeln!(out, "{:gutter$} {DIM}·{DIM:#} {blank}{MARK}{mark}{MARK:#}", "")?;
    let under = " ".repeat(shown.before + shown.width / 2);
    for label in place.label.lines() {
        writeln!(out, "{:gutter$} {DIM}·{DIM:#} {under}{MARK}{}{MARK:#}", "", safe(label))?;
    }
    Ok(())
}

/// The line of a place as it is shown: tabs and control characters replaced, and cut to what is around the place.
struct Shown {
    line: String,
    before: usize,
    width: usize,
}

impl Shown {
    fn of(place: &Place) -> Self {
        let source = place.source.as_str();
        let floor = |mut at: usize| {
            at = at.min(source.len());
            while !source.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (floor(place.span.start), floor(place.span.end));
        let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let mut before = safe(&source[from..start]);
        let marked = safe(&source[start..end.clamp(start, to)]);
        let after = safe(&source[end.clamp(start, to)..to]);

        let space = WINDOW.saturating_sub(marked.chars().count()) / 2;
        if width(&before) > space.max(16) {
            let skip = before.chars().count().saturating_sub(space.max(16));
            before = format!("…{}", before.chars().skip(skip).collect::<String>());
        }
        let marked = clip(&marked, WINDOW);
        let after = clip(&after, space.max(16));
        Self {
            before: width(&before),
            width: width(&marked).max(1),
            line: format!("{before}{marked}{after}").trim_end().to_owned(),
        }
    }
}

fn clip(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(chars).collect();
    clipped.push('…');
    clipped
}

/// How many columns a text takes in a terminal.
fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

#[cfg(test)]
mod tests {
    use starlane_core::{Code, PointerError, Span};

    use super::*;

    fn plain(problem: &Problem) -> String {
        anstream::adapter::strip_str(&render(problem)).to_string()
    }

    #[test]
    fn a_problem_points_at_its_place_as_the_language_says() {
        let problem = Problem::new(Code::KindUnknown, "no kind `Mechatron`")
            .in_text("create shop:cart<Mechatron>", Span { start: 17, end: 26 }, "not a kind")
            .help("did you mean `Mechtron`?");
        assert_eq!(
            plain(&problem),
            "error[E-KIND-UNKNOWN]: no kind `Mechatron`\n\
             \x20  │ create shop:cart<Mechatron>\n\
             \x20  ·                  ────┬────\n\
             \x20  ·                      not a kind\n\
             \x20 help: did you mean `Mechtron`?\n"
        );
    }

    #[test]
    fn a_place_in_a_file_has_its_line() {
        let mut problem = Problem::new(Code::Syntax, "a point was expected").in_text(
            "create a<Space>;\ncreate <Space>;\n",
            Span { start: 24, end: 25 },
            "here",
        );
        problem.place.as_mut().unwrap().name = "setup.script".into();
        assert_eq!(
            plain(&problem),
            "error[E-SYNTAX]: a point was expected\n\
             \x20 ──▸ setup.script:2:8\n\
             \x202 │ create <Space>;\n\
             \x20  ·        ┬\n\
             \x20  ·        here\n"
        );
    }

    #[test]
    fn wide_characters_tabs_and_terminal_codes_do_not_break_the_picture() {
        let problem = Problem::new(Code::Syntax, "no\u{1b}[31m colour").in_text(
            "\t漢字 x\u{7}",
            Span { start: 8, end: 9 },
            "",
        );
        let text = plain(&problem);
        assert_eq!(text, "error[E-SYNTAX]: no␛[31m colour\n   │     漢字 x␇\n   ·          ─\n");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let source = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let problem = Problem::new(Code::Syntax, "d").in_text(source, Span { start: 500, end: 501 }, "here");
        let text = plain(&problem);
        assert!(text.lines().all(|line| line.chars().count() < 110), "{text}");
        assert!(text.contains("aXb"), "{text}");
    }

    #[test]
    fn spans_outside_the_text_are_survived() {
        for (start, end) in [(0, 0), (3, 99), (99, 100), (2, 1), (1, 2)] {
            let problem = Problem::new(Code::Syntax, "d").in_text("é\nb", Span { start, end }, "x");
            assert!(plain(&problem).contains('┬'));
        }
    }

    #[test]
    fn errors_inside_a_document_are_listed() {
        let mut problem = Problem::new(Code::Schema, "the order does not match its schema");
        problem.errors =
            vec![PointerError { pointer: "/total".into(), detail: "\"two\" is not a number".into() }];
        problem.retry_after = Some(2);
        assert_eq!(
            plain(&problem),
            "error[E-SCHEMA]: the order does not match its schema\n\
             \x20  · /total: \"two\" is not a number\n\
             \x20 note: worth another try in 2 s\n"
        );
    }
}
