//! Replays what fuzzing the API begins with.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod checks;

#[test]
fn what_fuzzing_the_api_begins_with_is_answered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/api");
    let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{inputs:?}");
    for input in inputs {
        println!("{}", input.display());
        checks::api(&std::fs::read(input).unwrap());
    }
    // Bytes that are no request at all.
    for data in
        [&b""[..], b"\0", b"\n\n", b"GET", b"GET /\xff\xfe", b"\x16\x03\x01\x02", b"GET /v1/info\nbad header"]
    {
        checks::api(data);
    }
}
