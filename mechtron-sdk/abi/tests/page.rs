//! The page in the documentation says what the code does.

use mechtron_abi::{HEADER_BYTES, Header, Kind, ReplyHead, VERSION, Writer};

const PAGE: &str = include_str!("../../../docs/guest-abi.md");

#[test]
fn the_page_has_exactly_these_kinds() {
    let table = PAGE.split("### Kinds").nth(1).and_then(|rest| rest.split("### ").next()).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit());
    let of_page: Vec<_> = rows.map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" | ")).collect();
    let of_code: Vec<_> = Kind::ALL.iter().map(|kind| format!("| {} | `{kind:?}`", kind.number())).collect();
    assert_eq!(of_page, of_code);
}

#[test]
fn the_page_s_example_is_what_is_written() {
    let mut writer = Writer::new();
    let headers = vec![("content-type".into(), "application/json".into())];
    writer.frame_with_head(Header::new(Kind::Answer, 7), &ReplyHead { status: 200, headers }, b"{}");
    let example = PAGE.split("```").find(|block| block.contains("header: Answer")).unwrap();
    let bytes: Vec<u8> = example
        .lines()
        .filter_map(|line| line.split("    ").next().filter(|bytes| !bytes.is_empty()))
        .flat_map(|bytes| bytes.split_whitespace())
        .map(|byte| {
            u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2).unwrap_or(byte.as_bytes()[0])
        })
        .collect();
    assert_eq!(bytes, writer.bytes()[..bytes.len()]);
    assert_eq!(bytes.len(), HEADER_BYTES + 35);
    assert_eq!(format!("{VERSION:#x}"), "0x10001");
}
