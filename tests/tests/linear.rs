//! The registry is linearizable, and a registry that were not would be found out.
#![cfg(target_os = "linux")]

use tests::net::Lab;
use tests::soak::{self, Histories, Store, Work};

fn asked(store: Store) -> Histories {
    Histories {
        store,
        runs: 1,
        work: Work::Operations(1_500),
        faults: 5,
        seed: 1,
        stale: false,
        kept_in: tests::root().join("target/linear"),
    }
}

#[test]
fn what_clients_of_two_nodes_hear_has_an_order_while_nodes_are_killed_paused_and_cut() {
    let Some(lab) = Lab::new() else { return };
    let Some(judged) = soak::histories(lab, &asked(Store::Embedded)) else { return };
    println!("{judged}");
    assert!(judged.report().kept(), "{judged}");
}

#[test]
fn it_has_one_with_etcd_too_while_members_are_killed_and_paused() {
    let Some(lab) = Lab::new() else { return };
    let Some(judged) = soak::histories(lab, &asked(Store::Etcd)) else { return };
    println!("{judged}");
    assert!(judged.report().kept(), "{judged}");
}

#[test]
fn a_stale_read_is_found() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let asked = Histories { stale: true, faults: 1, kept_in: folder.path().into(), ..asked(Store::Embedded) };
    let Some(judged) = soak::histories(lab, &asked) else { return };
    println!("{judged}");
    assert_eq!(judged.undecided(), 0);
    assert!(!judged.illegal().is_empty() && !judged.report().kept(), "{judged}");
    for file in judged.illegal() {
        let text = std::fs::read_to_string(file).expect("it was written");
        assert!(text.contains("What is enough of it"), "{text}");
    }
}
