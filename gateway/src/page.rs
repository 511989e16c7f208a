//! Problems as pages for people: what is wrong, and what to type next.

use std::fmt::{self, Write as _};

use crate::shapes::ProblemDetails;

/// The page of a problem.
pub(crate) fn problem(details: &ProblemDetails) -> String {
    let mut page = String::with_capacity(2_048);
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{status} · {title}</title>\n<style>{STYLE}</style>\n<main>\n\
         <p class=\"status\">{status} <span>{code}</span></p>\n<h1>{title}</h1>\n<p>{detail}</p>\n",
        status = details.status,
        code = details.code,
        title = Escaped(details.title.trim_end_matches('.')),
        detail = Marked(&details.detail),
    );
    if let Some(help) = &details.help {
        let _ = writeln!(page, "<p class=\"help\">{}</p>", Marked(help));
    }
    if let Some(trace) = &details.trace_id {
        let _ = writeln!(page, "<p class=\"trace\">trace {}</p>", Escaped(trace));
    }
    page.push_str("</main>\n</html>\n");
    page
}

const STYLE: &str = "body{font:1.05rem/1.6 system-ui,sans-serif;color:#223;background:#f6f7f9;margin:0}\
main{max-width:40rem;margin:12vh auto;padding:0 1.5rem}h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 1rem}\
.status{color:#667;margin:0}.status span,.trace{font-size:.85rem;color:#889}\
.help{border-left:4px solid #47a;padding:.2rem 0 .2rem 1rem}\
code{font:.95em ui-monospace,monospace;background:#e7eaf0;padding:.1em .35em;border-radius:4px;overflow-wrap:anywhere}\
@media(prefers-color-scheme:dark){body{color:#dde;background:#16181d}code{background:#2a2e37}}";

/// Text that means nothing but itself in HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Text in which what stands between back-ticks is to be typed.
struct Marked<'a>(&'a str);

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((plain, (code, after))) =
            rest.split_once('`').and_then(|(plain, rest)| Some((plain, rest.split_once('`')?)))
        {
            write!(f, "{}<code>{}</code>", Escaped(plain), Escaped(code))?;
            rest = after;
        }
        Escaped(rest).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let marked = Marked("no space `<b>\"x\"</b>` & `half").to_string();
        assert_eq!(marked, "no space <code>&lt;b&gt;&quot;x&quot;&lt;/b&gt;</code> &amp; `half");
    }
}
