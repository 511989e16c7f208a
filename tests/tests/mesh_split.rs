//! Partitions heal.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tests::net::Lab;
use tests::soak::{self, Splits};

#[test]
fn all_agree_after_splits_and_after_a_start_of_all() {
    let Some(lab) = Lab::new() else { return };
    let splits = Splits { two_way: 2, one_way: 1, held: Duration::from_secs(2), restarts: 1 };
    let report = soak::partitions(lab, splits);
    println!("{report}");
    assert!(report.kept(), "{report}");
}
