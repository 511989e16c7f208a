//! Mechtrons of dead nodes live on, and only those of dead ones are moved.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tests::net::Lab;
use tests::soak;

#[test]
fn the_mechtrons_of_a_killed_node_answer_elsewhere() {
    let report = soak::mechtrons_of_killed_nodes(1);
    println!("{report}");
    assert!(report.kept(), "{report}");
}

#[test]
fn nobody_is_taken_for_dead_for_lost_packets() {
    let Some(lab) = Lab::new() else { return };
    let report = soak::no_false_deaths(lab, 30, 2, Duration::from_secs(8));
    println!("{report}");
    assert!(report.kept(), "{report}");
}
