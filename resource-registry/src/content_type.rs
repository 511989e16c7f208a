//! The content type of a file, by its name.

use mime_guess::mime;

/// The content type that a file of this name has: by its extension, in any case; text says that it is UTF-8. A name
/// that tells nothing is `application/octet-stream`.
///
/// The names of the language's own artifacts (`.bind`, `.config`, `.mechtron`, `.schema`) are text, so that a browser
/// shows them.
pub fn of_name(name: &str) -> String {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let guessed = match extension.as_deref() {
        None => mime::APPLICATION_OCTET_STREAM,
        Some("bind" | "config" | "mechtron" | "script" | "star") => mime::TEXT_PLAIN,
        Some("schema" | "map") => mime::APPLICATION_JSON,
        // Registered as video by the list that the library follows; in a bundle it is TypeScript.
        Some("ts" | "mts" | "cts") => mime::TEXT_PLAIN,
        // RFC 9239; the list has older names for some.
        Some("js" | "mjs" | "cjs") => mime::TEXT_JAVASCRIPT,
        Some(extension) => mime_guess::from_ext(extension).first_or_octet_stream(),
    };
    // JSON is UTF-8 by definition (RFC 8259); SVG and other XML say it themselves or are UTF-8 (RFC 7303).
    if guessed.type_() == mime::TEXT {
        format!("{}; charset=utf-8", guessed.essence_str())
    } else {
        guessed.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::of_name;

    #[test]
    fn names_tell_what_browsers_expect() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("INDEX.HTM", "text/html; charset=utf-8"),
            ("style.css", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("app.js.map", "application/json"),
            ("data.json", "application/json"),
            ("shop.wasm", "application/wasm"),
            ("logo.svg", "image/svg+xml"),
            ("logo.png", "image/png"),
            ("photo.jpeg", "image/jpeg"),
            ("photo.webp", "image/webp"),
            ("favicon.ico", "image/x-icon"),
            ("font.woff2", "font/woff2"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("notes.md", "text/markdown; charset=utf-8"),
            ("feed.xml", "text/xml; charset=utf-8"),
            ("table.csv", "text/csv; charset=utf-8"),
            ("film.mp4", "video/mp4"),
            ("paper.pdf", "application/pdf"),
            ("site.zip", "application/zip"),
            ("app.webmanifest", "application/manifest+json"),
            ("site.bind", "text/plain; charset=utf-8"),
            ("cart.mechtron", "text/plain; charset=utf-8"),
            ("order.schema", "application/json"),
            ("main.ts", "text/plain; charset=utf-8"),
            ("LICENSE", "application/octet-stream"),
            ("file.", "application/octet-stream"),
            ("file.unheard-of", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(of_name(name), expected, "{name}");
        }
    }
}
