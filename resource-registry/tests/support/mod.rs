//! Archives made by hand, byte by byte, so that they can lie.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// An entry as it will be written; every field can be made to lie.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) local_name: Option<Vec<u8>>,
    pub(crate) content: Vec<u8>,
    pub(crate) method: u16,
    pub(crate) flags: u16,
    pub(crate) crc32: u32,
    pub(crate) packed_bytes: u64,
    pub(crate) bytes: u64,
    pub(crate) attributes: u32,
    pub(crate) extra: Vec<u8>,
    /// Where the directory says that it is; where it really is by default.
    pub(crate) at: Option<u64>,
}

impl Entry {
    pub(crate) fn stored(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref().to_owned();
        let mut entry = Self::packed(name, &content);
        entry.packed_bytes = content.len() as u64;
        entry.method = 0;
        entry.content = content;
        entry
    }

    pub(crate) fn packed(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let packed = deflate(content);
        Self {
            name: name.as_ref().to_owned(),
            local_name: None,
            method: 8,
            flags: 0,
            crc32: crc32fast::hash(content),
            packed_bytes: packed.len() as u64,
            bytes: content.len() as u64,
            content: packed,
            attributes: 0o100_644 << 16,
            extra: Vec::new(),
            at: None,
        }
    }

    pub(crate) fn directory(name: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::stored(name, []);
        entry.attributes = 0o040_755 << 16;
        entry
    }
}

pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Some MiB of zeros, deflated: blocks that end on a whole byte can be repeated.
pub(crate) fn deflated_zeros(mebibytes: usize) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(&vec![0; MIB]).unwrap();
    encoder.flush().unwrap();
    let mut deflated = encoder.get_ref().repeat(mebibytes);
    // An empty last block.
    deflated.extend([3, 0]);
    deflated
}

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Zip {
    pub(crate) entries: Vec<Entry>,
    pub(crate) comment: Vec<u8>,
    /// What the end record says instead of the truth: entries, bytes of the directory, its start.
    pub(crate) end: (Option<u16>, Option<u32>, Option<u32>),
    /// A zip64 end record with entries, bytes of the directory, its start.
    pub(crate) end64: Option<(u64, u64, u64)>,
}

impl Zip {
    pub(crate) fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self { entries: entries.into_iter().collect(), ..Self::default() }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut starts = Vec::new();
        for entry in &self.entries {
            starts.push(out.len() as u64);
            let name = entry.local_name.as_ref().unwrap_or(&entry.name);
            out.extend(0x0403_4b50_u32.to_le_bytes());
            for field in [20, entry.flags, entry.method, 0, 0x21] {
                out.extend(field.to_le_bytes());
            }
            out.extend(entry.crc32.to_le_bytes());
            out.extend(clamp(entry.packed_bytes).to_le_bytes());
            out.extend(clamp(entry.bytes).to_le_bytes());
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(0_u16.to_le_bytes());
            out.extend(name);
            out.extend(&entry.content);
        }
        let start = out.len() as u64;
        for (entry, at) in self.entries.iter().zip(starts) {
            let at = entry.at.unwrap_or(at);
            let mut extra = entry.extra.clone();
            let large: Vec<u64> = [entry.bytes, entry.packed_bytes, at]
                .into_iter()
                .filter(|value| clamp(*value) == u32::MAX)
                .collect();
            if !large.is_empty() {
                extra.extend(1_u16.to_le_bytes());
                extra.extend((large.len() as u16 * 8).to_le_bytes());
                large.iter().for_each(|value| extra.extend(value.to_le_bytes()));
            }
            out.extend(0x0201_4b50_u32.to_le_bytes());
            for field in [0x0314, 20, entry.flags, entry.method, 0, 0x21] {
                out.extend(field.to_le_bytes());
            }
            out.extend(entry.crc32.to_le_bytes());
            out.extend(clamp(entry.packed_bytes).to_le_bytes());
            out.extend(clamp(entry.bytes).to_le_bytes());
            for field in [entry.name.len() as u16, extra.len() as u16, 0, 0, 0] {
                out.extend(field.to_le_bytes());
            }
            out.extend(entry.attributes.to_le_bytes());
            out.extend(clamp(at).to_le_bytes());
            out.extend(&entry.name);
            out.extend(extra);
        }
        let bytes = out.len() as u64 - start;
        if let Some((entries, bytes, start)) = self.end64 {
            let at = out.len() as u64;
            out.extend(0x0606_4b50_u32.to_le_bytes());
            out.extend(44_u64.to_le_bytes());
            out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for field in [entries, entries, bytes, start] {
                out.extend(field.to_le_bytes());
            }
            out.extend(0x0706_4b50_u32.to_le_bytes());
            out.extend(0_u32.to_le_bytes());
            out.extend(at.to_le_bytes());
            out.extend(1_u32.to_le_bytes());
        }
        let count = self.end.0.unwrap_or(self.entries.len() as u16);
        out.extend(0x0605_4b50_u32.to_le_bytes());
        for field in [0, 0, count, count] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.end.1.unwrap_or(bytes as u32).to_le_bytes());
        out.extend(self.end.2.unwrap_or(start as u32).to_le_bytes());
        out.extend((self.comment.len() as u16).to_le_bytes());
        out.extend(&self.comment);
        out
    }
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Archives that would take more than they may: each with what it is.
pub(crate) fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let mut bombs = Vec::new();
    let zeros = |name: &str, bytes: u64, packed: &[u8]| {
        let mut entry = Entry::packed(name, []);
        (entry.content, entry.packed_bytes, entry.bytes) = (packed.to_owned(), packed.len() as u64, bytes);
        entry
    };
    let gib = deflated_zeros(1024);
    let mib = deflated_zeros(1);

    bombs.push(("a GiB of zeros in 1 MiB", Zip::of([zeros("zeros", 1 << 30, &gib)]).build()));
    bombs.push(("a GiB of zeros said to be 100 bytes", Zip::of([zeros("zeros", 100, &gib)]).build()));
    bombs.push((
        "16 MiB of zeros said to be what their packed size allows",
        Zip::of([zeros("zeros", deflated_zeros(16).len() as u64 * 100, &deflated_zeros(16))]).build(),
    ));
    bombs.push((
        "900 files of a MiB of zeros each",
        Zip::of((0..900).map(|number| zeros(&format!("zeros-{number}"), 1 << 20, &mib))).build(),
    ));

    let mut overlapping = Zip::of((0..500).map(|number| zeros(&format!("{number}"), 1 << 20, &[])));
    overlapping.entries[0] = zeros("0", 1 << 20, &mib);
    for entry in &mut overlapping.entries {
        (entry.packed_bytes, entry.at, entry.local_name) = (mib.len() as u64, Some(0), Some(b"0".to_vec()));
    }
    bombs.push(("500 entries that are one", overlapping.build()));

    let mut quoted = Zip::of([Entry::stored("a", vec![0; 10 * KIB]), Entry::stored("b", vec![0; 10 * KIB])]);
    quoted.entries[0].packed_bytes += 10 * KIB as u64;
    quoted.entries[0].bytes += 10 * KIB as u64;
    bombs.push(("an entry that quotes the next", quoted.build()));

    let mut large = Zip::of([Entry::packed("large", b"small")]);
    large.entries[0].bytes = 1 << 60;
    bombs.push(("a zip64 file of an EiB", large.build()));
    large.entries[0].bytes = u64::MAX;
    large.entries[0].packed_bytes = u64::MAX;
    bombs.push(("a zip64 file of all bytes there are", large.build()));
    large.entries[0].at = Some(u64::MAX);
    bombs.push(("a zip64 file at the end of the address space", large.build()));

    let one = || Zip::of([Entry::packed("one", b"content")]);
    let end = |entries, bytes, start| Zip { end: (entries, bytes, start), ..one() }.build();
    let end64 = |entries, bytes, start| {
        let end = (Some(u16::MAX), Some(u32::MAX), Some(u32::MAX));
        Zip { end, end64: Some((entries, bytes, start)), ..one() }.build()
    };
    bombs.push(("a claim of 65,534 entries", end(Some(65_534), None, None)));
    bombs.push(("a claim of a 4 GiB directory", end(None, Some(u32::MAX - 1), Some(0))));
    bombs.push(("a claim of a directory beyond the end", end(None, None, Some(u32::MAX - 1))));
    bombs.push(("a zip64 claim of 2^63 entries", end64(1 << 63, 49, 44)));
    bombs.push(("a zip64 claim of a directory of 2^63 bytes", end64(1, 1 << 63, 0)));
    bombs.push(("a zip64 claim of a directory that ends past 2^64", end64(1, u64::MAX, u64::MAX)));

    bombs.push((
        "20,001 empty files",
        Zip::of((0..20_001).map(|number| Entry::stored(format!("{number}"), []))).build(),
    ));
    bombs.push((
        "a directory of 20 MiB in long names",
        Zip::of((0..900).map(|number| Entry::stored(format!("{number}{}", "/long".repeat(4_600)), [])))
            .build(),
    ));
    let deep = |number: usize| (0..20).map(|level| format!("{number}-{level}/")).collect::<String>() + "file";
    bombs.push((
        "1,100 files that imply 22,000 directories",
        Zip::of((0..1_100).map(|number| Entry::stored(deep(number), []))).build(),
    ));
    bombs.push(("60 levels", Zip::of([Entry::stored("a/".repeat(60) + "file", [])]).build()));
    let mut window = Zip::of([Entry::stored("zstd", [0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 0, 0, 0])]);
    window.entries[0].method = 93;
    bombs.push(("a zstd window of 2 GiB", window.build()));
    let mut padded = Zip::of([Entry::packed("padded", b"small")]);
    padded.entries[0].content.extend(vec![0; MIB]);
    padded.entries[0].packed_bytes += MIB as u64;
    bombs.push(("a MiB behind the end of the packed content", padded.build()));
    bombs.push(("a tail of end records", {
        let record =
            [0x50, 0x4b, 5, 6, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0];
        record.repeat(2_979)
    }));
    bombs
}

/// Names that would reach outside, or that read otherwise than they are; none is a safe path.
pub(crate) fn hostile_names() -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = &[
        b"..",
        b"../x",
        b"..\\x",
        b"x/../../y",
        b"x\\..\\y",
        b"./x",
        b"x/.",
        b"x/./y",
        b".",
        b"/etc/passwd",
        b"//host/share",
        b"\\\\host\\share",
        b"\\\\?\\C:\\x",
        b"C:",
        b"C:\\x",
        b"C:/x",
        b"c:x",
        b"x:stream",
        b"file:///x",
        b"x\0",
        b"x\0.html",
        b"\0",
        b"%2e%2e/x",
        b"%2E%2E/x",
        b"..%2fx",
        b"..%5cx",
        b"%2e",
        b"x%00",
        b"x%2Fy",
        b"x%5Cy",
        b"x//y",
        b"x\ny",
        b"x\ry",
        b"x\ty",
        b"\x1b[2Jx",
        b"x\x7f",
        b"\xc0\xaf",
        b"\xc0\xae\xc0\xae/x",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"x\x80",
        b"\xf8\x88\x80\x80\x80",
    ];
    let mut names: Vec<Vec<u8>> = Vec::new();
    let others = ["\u{202e}gpj.exe", "x\u{200f}y", "\u{2066}x", "x\u{85}y"];
    for core in texts.iter().copied().chain(others.iter().map(|text| text.as_bytes())) {
        for front in ["", "a/", "bind/site/", "\u{e9}/"] {
            for back in ["", "/x", "/index.html"] {
                names.push([front.as_bytes(), core, back.as_bytes()].concat());
            }
        }
    }
    // Behind `a/`, a leading `/` is an empty component, as bad as it was.
    names.push(Vec::new());
    names.push(b"x".repeat(256));
    names.push(b"x/".repeat(33));
    names.push(b"x/".repeat(3_000));
    names
}
