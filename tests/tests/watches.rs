//! Watches under faults, and watches that nobody reads.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tests::net::Lab;
use tests::soak::{self, Forgetting, Slow, Store, Watching};

fn under_faults(store: Store) {
    let Some(lab) = Lab::new() else { return };
    let forget = store == Store::Etcd;
    let asked = Watching { store, watches: 8, changes: 600, cuts: 1, kills: 1, forget };
    let Some(report) = soak::watches_under_faults(lab, asked) else { return };
    println!("{report}");
    assert!(report.kept(), "{report}");
}

#[test]
fn watches_miss_repeat_reorder_and_split_nothing_under_kills_and_cuts() {
    under_faults(Store::Embedded);
}

#[test]
fn nor_do_they_on_etcd_while_it_forgets_its_history() {
    under_faults(Store::Etcd);
}

#[test]
fn all_are_told_all_while_one_does_not_read_and_so_is_that_one_later() {
    for store in [Store::Embedded, Store::Etcd] {
        let Some(report) = soak::a_stopped_watcher(Slow { store, live: 5, pairs: 2, changes: 800 }) else {
            continue;
        };
        println!("{report}");
        assert!(report.kept(), "{report}");
    }
}

#[test]
fn a_watch_that_is_too_slow_for_the_history_is_told_so_and_right_in_the_end() {
    for store in [Store::Embedded, Store::Etcd] {
        let asked = Forgetting { store, watches: 10, commits: 4_000, every: Duration::from_millis(20) };
        let Some(report) = soak::watches_while_the_history_is_forgotten(asked) else { continue };
        println!("{report}");
        assert!(report.kept(), "{report}");
    }
}
