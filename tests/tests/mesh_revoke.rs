//! Revocation is real.
#![cfg(target_os = "linux")]

use tests::soak;

#[test]
fn a_revoked_node_is_out_at_once_and_does_not_come_back() {
    let report = soak::a_revoked_node(1);
    println!("{report}");
    assert!(report.kept(), "{report}");
}
