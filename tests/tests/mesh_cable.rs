//! The cable is pulled, and nothing hangs.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tests::net::Lab;
use tests::soak;

#[test]
fn a_transfer_a_watch_and_requests_survive_a_pulled_cable() {
    let Some(lab) = Lab::new() else { return };
    let report = soak::pulled_in_the_middle(lab, 64 << 20, 400, Duration::from_secs(8));
    println!("{report}");
    assert!(report.kept(), "{report}");
}
