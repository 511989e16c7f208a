//! The program itself. Cargo builds it for this, and the README's commands are typed with it too.

use std::process::Command;

#[test]
fn what_it_does_not_know_is_answered_with_how_it_is_used() {
    for words in [&[][..], &["sell"], &["serve", "twice"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_orders")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("usage: orders serve | make COUNT | watch"), "{said}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_orders")).args(["make", "many"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("`many` is no count"));
}
