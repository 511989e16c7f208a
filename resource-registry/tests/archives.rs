//! An archive of a stranger cannot escape, explode or lie.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Cursor, Write as _};

use proptest::prelude::*;
use resource_registry::archive::{Archive, ArchiveFault, EntryFault, Error, Limits, check_archive};
use resource_registry::pack::{self, pack};
use starlane_core::{Code, Point, Problem};
use support::{Entry, Zip, bombs, hostile_names};

fn holder() -> Point {
    "shop:repo:site:1.0.0".parse().unwrap()
}

/// All files of an archive by their points, or why not.
fn unpack(bytes: &[u8], limits: &Limits) -> Result<Vec<(Point, Vec<u8>)>, Error> {
    let mut archive = Archive::open(Cursor::new(bytes), &holder(), limits)?;
    let mut unpacked = Vec::new();
    for file in archive.files().to_vec() {
        let mut unpacking = archive.unpack(&file)?;
        let (mut content, mut piece) = (Vec::new(), [0; 1_000]);
        loop {
            match unpacking.read(&mut piece)? {
                0 => break,
                read => content.extend_from_slice(&piece[..read]),
            }
        }
        unpacked.push((file.point, content));
    }
    Ok(unpacked)
}

fn check(bytes: &[u8]) -> Result<Vec<(Point, Vec<u8>)>, Error> {
    unpack(bytes, &Limits::default())
}

fn fault(entries: impl IntoIterator<Item = Entry>) -> EntryFault {
    match check(&Zip::of(entries).build()).unwrap_err() {
        Error::Entry { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn what_fuzzing_begins_with_is_answered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/archive");
    let inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 4, "{inputs:?}");
    for input in inputs {
        println!("{}", input.display());
        check_archive(&std::fs::read(input).unwrap());
    }
}

#[test]
fn a_plain_archive_is_read() {
    let zip = Zip::of([
        Entry::directory("html/"),
        Entry::packed("html/index.html", "<h1>hello</h1>".repeat(100)),
        Entry::stored("bind/site.bind", "Bind(version=1.0.0) {}"),
        Entry::stored("a/b/empty", ""),
    ]);
    let zip = Zip { comment: b"with a comment".to_vec(), ..zip };
    let archive = Archive::open(Cursor::new(zip.build()), &holder(), &Limits::default()).unwrap();
    let directories: Vec<_> = archive.directories().iter().map(Point::to_string).collect();
    let at = |path: &str| format!("shop:repo:site:1.0.0:/{path}");
    assert_eq!(directories, [at("a/"), at("a/b/"), at("bind/"), at("html/")]);
    assert_eq!(archive.total_bytes(), 1_400 + 22);
    let unpacked = check(&zip.build()).unwrap();
    assert_eq!(
        unpacked[0],
        (at("html/index.html").parse().unwrap(), "<h1>hello</h1>".repeat(100).into_bytes())
    );
    assert_eq!(unpacked[1].1, b"Bind(version=1.0.0) {}");
    assert_eq!(unpacked[2], (at("a/b/empty").parse().unwrap(), Vec::new()));
}

#[test]
fn zip64_is_read() {
    let mut zip = Zip::of([Entry::packed("a", "content")]);
    let plain = zip.build();
    zip.end64 = Some((1, (plain.len() - 22 - 40) as u64, 40));
    assert_eq!(plain.len(), 40 + 47 + 22, "the test's own arithmetic");
    for end in [(None, None, None), (Some(u16::MAX), Some(u32::MAX), Some(u32::MAX))] {
        zip.end = end;
        assert_eq!(check(&zip.build()).unwrap()[0].1, b"content");
    }
    zip.end = (Some(2), None, None);
    assert!(matches!(check(&zip.build()), Err(Error::Archive(ArchiveFault::Damaged(_)))));
}

#[test]
fn hostile_names_are_refused_and_shown_safely() {
    let names = hostile_names();
    assert!(names.len() >= 500, "{}", names.len());
    for name in names {
        for entry in [
            Entry::stored(&name, "x"),
            Entry::packed(&name, "x"),
            Entry::directory([&name[..], b"/"].concat()),
        ] {
            let Err(error) = check(&Zip::of([Entry::stored("good", "x"), entry]).build()) else {
                panic!("taken: {}", String::from_utf8_lossy(&name));
            };
            let problem = Problem::from(error);
            assert!(matches!(problem.code, Code::ArchiveInvalid | Code::TooLarge), "{problem:?}");
            assert!(problem.help.is_some() && problem.detail.len() < 1_500);
            assert!(!problem.detail.contains(|c: char| c.is_control() || c == '\u{202e}'), "{problem:?}");
            if let Some(place) = problem.place {
                assert!(place.source.get(place.span.start..place.span.end).is_some(), "{place:?}");
            }
        }
    }
}

#[test]
fn a_bad_name_is_pointed_at() {
    let error = check(&Zip::of([Entry::stored("html/../x", "x")]).build()).unwrap_err();
    let problem = Problem::from(error);
    let place = problem.place.unwrap();
    assert_eq!(&place.source[place.span.start..place.span.end], "..");
    assert_eq!(
        problem.detail,
        "the archive's entry `html/../x` has a name that is no safe path: `..` cannot stand in a path"
    );
}

#[test]
fn strange_names_that_harm_nobody_are_taken_as_they_are() {
    for name in [
        "CON", "aux.txt", "a.", " a ", "...", "~/x", "$HOME", "-rf", "%c0%ae", "%252e", "\u{e9}", "<b>",
        "a'\"b", "x y",
    ] {
        let unpacked = check(&Zip::of([Entry::stored(name, "x")]).build()).unwrap();
        assert_eq!(unpacked[0].0.to_string(), format!("shop:repo:site:1.0.0:/{name}"));
    }
}

#[test]
fn bombs_are_refused() {
    let bombs = bombs();
    assert!(bombs.len() >= 20);
    for (what, bytes) in bombs {
        let Err(error) = check(&bytes) else { panic!("taken: {what}") };
        let problem = Problem::from(error);
        assert!(matches!(problem.code, Code::ArchiveInvalid | Code::TooLarge), "{what}: {problem:?}");
        assert!(problem.help.is_some());
    }
}

#[test]
fn an_archive_in_an_archive_stays_packed() {
    let mut bytes = bombs().remove(0).1;
    for _ in 0..2 {
        bytes = Zip::of((0..3).map(|number| Entry::stored(format!("{number}.zip"), &bytes))).build();
    }
    let inner: usize = check(&bytes).unwrap().iter().map(|(_, content)| content.len()).sum();
    assert!(inner < bytes.len());
}

#[test]
fn what_is_neither_file_nor_directory_is_refused() {
    for mode in [0o120_777_u32, 0o010_644, 0o020_644, 0o060_644, 0o140_644, 0o040_755] {
        let mut entry = Entry::stored("x", "/etc/passwd");
        entry.attributes = mode << 16;
        assert!(matches!(fault([entry]), EntryFault::Special(_)), "{mode:o}");
    }
    let mut entry = Entry::directory("x/");
    entry.attributes = 0o100_644 << 16;
    assert!(matches!(fault([entry]), EntryFault::Special(_)));
}

#[test]
fn entries_that_contradict_are_refused() {
    let file = |name: &str| Entry::stored(name, "content");
    assert_eq!(fault([file("x"), file("x")]), EntryFault::Duplicate);
    assert_eq!(fault([Entry::directory("x/"), Entry::directory("x/")]), EntryFault::Duplicate);
    for pair in [["x", "x/y"], ["x/y", "x"], ["x/y/z", "x"], ["x", "x/y/z"]] {
        assert_eq!(fault(pair.map(file)), EntryFault::FileAndDirectory, "{pair:?}");
    }
    assert_eq!(fault([file("x"), Entry::directory("x/")]), EntryFault::FileAndDirectory);
    assert_eq!(fault([Entry::directory("x/"), file("x")]), EntryFault::FileAndDirectory);
    // A directory may be named after what stands in it.
    check(&Zip::of([file("x/y"), Entry::directory("x/")]).build()).unwrap();

    let changed = |change: fn(&mut Entry)| {
        let mut entry = Entry::packed("x", "content");
        change(&mut entry);
        fault([entry])
    };
    assert!(matches!(changed(|entry| entry.local_name = Some(b"y".to_vec())), EntryFault::Contradiction(_)));
    assert!(matches!(changed(|entry| entry.flags = 1), EntryFault::Encrypted));
    assert!(matches!(changed(|entry| entry.flags = 1 << 13), EntryFault::Encrypted));
    assert!(matches!(changed(|entry| entry.method = 12), EntryFault::Method(12)));
    assert!(matches!(changed(|entry| entry.crc32 ^= 1), EntryFault::Damaged(_)));
    assert!(matches!(changed(|entry| entry.bytes += 1), EntryFault::Damaged(_)));
    assert!(matches!(changed(|entry| entry.bytes -= 1), EntryFault::Damaged(_)));
    assert!(matches!(changed(|entry| entry.packed_bytes -= 1), EntryFault::Damaged(_)));
    assert!(matches!(changed(|entry| entry.at = Some(3)), EntryFault::Damaged(_)));
    assert!(matches!(changed(|entry| entry.method = 0), EntryFault::Contradiction(_)));
    let unicode_path = |name: &[u8]| {
        [&0x7075_u16.to_le_bytes()[..], &[5 + name.len() as u8, 0, 1, 0, 0, 0, 0], name].concat()
    };
    let mut entry = Entry::packed("x", "content");
    entry.extra = unicode_path(b"../y");
    assert!(matches!(fault([entry.clone()]), EntryFault::Contradiction(_)));
    entry.extra = unicode_path(b"x");
    check(&Zip::of([entry]).build()).unwrap();
}

#[test]
fn archives_that_are_none_are_refused() {
    for bytes in [&b""[..], b"PK", b"not a zip", &[0; 100_000]] {
        assert!(matches!(check(bytes), Err(Error::Archive(ArchiveFault::NoEnd))));
    }
    assert!(matches!(check(&Zip::default().build()), Err(Error::Archive(ArchiveFault::Empty))));
    assert!(matches!(
        check(&Zip::of([Entry::directory("x/")]).build()),
        Err(Error::Archive(ArchiveFault::Empty))
    ));
    let good = Zip::of([Entry::packed("x", "content")]).build();
    assert!(matches!(check(&[b"before", &good[..]].concat()), Err(Error::Archive(ArchiveFault::Damaged(_)))));
    assert!(matches!(check(&[&good[..], b"after"].concat()), Err(Error::Archive(ArchiveFault::NoEnd))));
}

#[test]
fn every_limit_holds_on_the_spot() {
    let zip = Zip::of([Entry::stored("a/b/c", vec![1; 500]), Entry::stored("d", vec![2; 300])]).build();
    let total = zip.len() as u64;
    let with = |change: fn(&mut Limits)| {
        let mut limits =
            Limits { archive_bytes_max: 10_000, entries_max: 4, depth_max: 3, ..Limits::default() };
        (limits.file_bytes_max, limits.total_bytes_max) = (500, 800);
        change(&mut limits);
        unpack(&zip, &limits).map(|files| files.len()).map_err(|error| error.to_string())
    };
    assert_eq!(with(|_| {}), Ok(2));
    assert_eq!(
        with(|limits| limits.archive_bytes_max = 100).unwrap_err(),
        "the archive has more than 100 bytes"
    );
    assert_eq!(
        with(|limits| limits.entries_max = 3).unwrap_err(),
        "the archive has more than 3 files and directories"
    );
    assert_eq!(
        with(|limits| limits.file_bytes_max = 499).unwrap_err(),
        "the archive's entry `a/b/c` unpacks to more than 499 bytes"
    );
    assert_eq!(
        with(|limits| limits.total_bytes_max = 799).unwrap_err(),
        "the archive unpacks to more than 799 bytes"
    );
    assert_eq!(
        with(|limits| limits.depth_max = 2).unwrap_err(),
        "the archive's entry `a/b/c` lies deeper than 2 levels"
    );
    assert_eq!(
        with(|limits| limits.directory_bytes_max = 90).unwrap_err(),
        "the archive has a directory of more than 90 bytes"
    );
    assert!(total < 10_000);
}

#[test]
fn a_directory_is_packed_the_same_every_time_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("html/img")).unwrap();
    std::fs::create_dir_all(root.join("empty")).unwrap();
    let files: [(&str, Vec<u8>); 5] = [
        (".hidden", b"too".to_vec()),
        ("html/index.html", b"<h1>hello</h1>".repeat(1_000)),
        ("html/img/logo.svg", b"<svg/>".to_vec()),
        ("zeros", vec![0; 3 << 20]),
        ("\u{e9}t\u{e9}.txt", b"warm".to_vec()),
    ];
    for (name, content) in &files {
        std::fs::write(root.join(name), content).unwrap();
    }
    let packed = || {
        let mut out = Cursor::new(Vec::new());
        let packed = pack(root, &mut out, &Limits::default()).unwrap();
        assert_eq!(packed.files, 5);
        out.into_inner()
    };
    let archive = packed();
    // The times of the files are not in the archive.
    std::fs::write(root.join(".hidden"), "too").unwrap();
    assert_eq!(archive, packed());
    let mut unpacked = check(&archive).unwrap();
    unpacked.sort();
    let mut expected: Vec<_> = files
        .into_iter()
        .map(|(name, content)| (format!("shop:repo:site:1.0.0:/{name}").parse().unwrap(), content))
        .collect();
    expected.sort();
    assert!(unpacked == expected);
    let opened = Archive::open(Cursor::new(archive), &holder(), &Limits::default()).unwrap();
    assert!(opened.directories().iter().any(|directory| directory.last() == "empty/"));
}

#[cfg(unix)]
#[test]
fn links_that_leave_the_directory_are_refused_and_others_followed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("site");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::fs::write(root.join("a/file"), "content").unwrap();
    symlink("a/file", root.join("link")).unwrap();
    symlink("a", root.join("b")).unwrap();
    let pack = || {
        let mut out = Cursor::new(Vec::new());
        pack(&root, &mut out, &Limits::default()).map(|_| out.into_inner())
    };
    let names: Vec<_> = check(&pack().unwrap())
        .unwrap()
        .into_iter()
        .map(|(point, _)| point.path().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["/a/file", "/b/file", "/link"]);

    for target in ["../secret", "/etc/hosts", "..", "a/../../secret"] {
        symlink(target, root.join("out")).unwrap();
        let error = pack().unwrap_err();
        assert!(matches!(error, pack::Error::Leaves { .. }), "{target}: {error}");
        std::fs::remove_file(root.join("out")).unwrap();
    }
    for target in [".", "..", "../a"] {
        symlink(target, root.join("a/around")).unwrap();
        let error = pack().unwrap_err();
        assert!(matches!(error, pack::Error::Circle(_)), "{target}: {error}");
        assert!(Problem::from(error).detail.contains("around"));
        std::fs::remove_file(root.join("a/around")).unwrap();
    }
    symlink("nowhere", root.join("dangling")).unwrap();
    assert!(matches!(pack().unwrap_err(), pack::Error::Read { .. }));
}

#[cfg(unix)]
#[test]
fn what_cannot_be_published_is_found_before_it_is_sent() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let pack =
        || pack(folder.path(), Cursor::new(Vec::new()), &Limits { entries_max: 3, ..Limits::default() });
    assert!(matches!(pack().unwrap_err(), pack::Error::Archive(ArchiveFault::Empty)));
    for name in [&b"a\\b"[..], b"a:b", b"a\nb", b"\xff"] {
        let path = folder.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(pack().unwrap_err(), pack::Error::Entry { .. }));
        std::fs::remove_file(path).unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    assert!(matches!(pack().unwrap_err(), pack::Error::Entry { fault: EntryFault::Special(_), .. }));
    drop(socket);
    std::fs::remove_file(folder.path().join("socket")).unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    assert!(matches!(pack().unwrap_err(), pack::Error::Archive(ArchiveFault::Entries(3))));
    assert!(matches!(
        pack::pack(&folder.path().join("a"), Cursor::new(Vec::new()), &Limits::default()),
        Err(pack::Error::NotADirectory(_))
    ));
}

/// What another implementation wrote.
fn written_by_zip(files: &std::collections::BTreeMap<String, Vec<u8>>, deflate: bool) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let method = if deflate { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, content) in files {
        writer.start_file(name.as_str(), options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn some_files() -> impl Strategy<Value = std::collections::BTreeMap<String, Vec<u8>>> {
    let name = proptest::collection::vec("[a-m]{1,3}", 1..4).prop_map(|parts| parts.join("/") + ".x");
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..500),
        (any::<u8>(), 0usize..5_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    proptest::collection::btree_map(name, content, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_others_pack_is_read(files in some_files(), deflate: bool) {
        let bytes = written_by_zip(&files, deflate);
        check_archive(&bytes);
        let expected: Vec<(Point, Vec<u8>)> = files
            .into_iter()
            .map(|(name, content)| (format!("shop:repo:site:1.0.0:/{name}").parse().unwrap(), content))
            .collect();
        prop_assert_eq!(check(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_changed_archive_is_refused_or_reads_as_before(
        files in some_files(),
        deflate: bool,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written_by_zip(&files, deflate);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check_archive(&bytes);
        for (point, content) in check(&bytes).unwrap_or_default() {
            let name = &point.path().unwrap()[1..];
            prop_assert_eq!(Some(&content), files.get(name), "{}", point);
        }
    }

    #[test]
    fn a_cut_archive_is_refused(files in some_files(), cut: proptest::sample::Index) {
        let bytes = written_by_zip(&files, true);
        prop_assert!(check(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn noise_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        check_archive(&bytes);
        prop_assert!(check(&bytes).is_err());
    }
}

/// Mutates every hostile archive many times: nothing may panic.
#[test]
fn hostile_archives_can_be_mutated_at_will() {
    let mut seeds: Vec<Vec<u8>> =
        bombs().into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes.len() < 50_000).collect();
    seeds.extend(
        hostile_names().into_iter().step_by(20).map(|name| Zip::of([Entry::packed(name, "x")]).build()),
    );
    seeds.push(
        Zip::of([Entry::packed("a/b", "content"), Entry::stored("c", "content"), Entry::directory("d/")])
            .build(),
    );
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let interesting = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'P'];
    let mut runs = 0;
    for seed in &seeds {
        check_archive(seed);
        for _ in 0..200 {
            let mut bytes = seed.clone();
            for _ in 0..=random(6) {
                // Headers are where the fields are: most changes go to the ends.
                let at = if random(3) == 0 {
                    random(bytes.len())
                } else {
                    bytes.len() - 1 - random(bytes.len().min(120))
                };
                bytes[at] =
                    if random(2) == 0 { interesting[random(interesting.len())] } else { random(256) as u8 };
            }
            check_archive(&bytes);
            runs += 1;
        }
    }
    assert!(runs >= 8_000, "{runs}");
}
