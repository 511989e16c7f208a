//! Certificates as text, and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const LINE_CHARS: usize = 64;

/// Certificates one after the other, each between its two lines.
pub(super) fn print<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = STANDARD.encode(certificate);
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(LINE_CHARS));
            text.push_str(&rest);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// The certificates in a text, in their order; `None` when one of them cannot be read.
pub(super) fn read(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let all: Vec<_> = [0, 1, 47, 48, 49, 300].map(|bytes| CertificateDer::from(vec![7; bytes])).into();
        assert_eq!(read(&print(&all[1..])).unwrap(), all[1..]);
        assert_eq!(read("").unwrap(), []);
        assert_eq!(read("-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n"), None);
    }
}
