//! Content that is larger than the memory it may use.
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::fs;
use std::io::Write;

use tests::Node;

const BYTES: usize = 128 << 20;
/// How much more memory the node may use for content of any length.
const MEMORY_MAX_KIB: u64 = 64 << 10;

#[test]
fn a_large_file_streams_in_and_out() {
    let node = Node::start();
    node.exec("create shop<Space>; create shop:files<FileSystem>").ok();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [there, back] = ["there", "back"].map(|name| folder.path().join(name));
    let mut file = std::io::BufWriter::new(fs::File::create(&there).expect("a file can be made"));
    for number in 0..BYTES / 8 {
        file.write_all(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .expect("it can be written");
    }
    file.into_inner().expect("it is written out");
    let before = peak_memory_kib(&node);
    node.run(["cp", there.to_str().expect("a plain path"), "shop:files:/large.bin"]).ok();
    node.run(["cp", "shop:files:/large.bin", back.to_str().expect("a plain path")]).ok();
    let grown = peak_memory_kib(&node) - before;
    assert!(
        fs::read(&there).expect("it is there") == fs::read(&back).expect("it came back"),
        "the content differs"
    );
    println!("{BYTES} bytes in and out: the node's peak memory grew by {grown} KiB");
    assert!(grown < MEMORY_MAX_KIB, "the node used {grown} KiB more");
}

/// The most memory that the node had resident (Linux).
fn peak_memory_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("a Linux process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its peak is known");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
